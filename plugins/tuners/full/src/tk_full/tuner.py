"""The tuner `full`: freezing by pattern, parameter groups, and checkpoints that plain transformers opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from tk.contracts import Adapters, LoadedModel, ParamGroup
from tk.errors import TkError, UsageError
from tk_auto import parameters, saving
from tk_auto.patterns import matching
from tk_auto.quiet import quiet
from tk_full.options import FullOptions


class FullTuner:
    """Trains a model's own weights."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options
        self._groups: Mapping[str, tuple[str, ...]] = {}

    def attach(self, model: LoadedModel) -> None:
        """Set which parameters are trained: never those that no output depends on.

        Raises UsageError for a pattern that matches nothing, or nothing left.
        """
        module, self._groups = model.module, model.groups
        chosen = set(module.parameters())
        if self.options.train:
            chosen = set().union(*(self._matching(module, pattern, "train") for pattern in self.options.train))
        for pattern in self.options.freeze:
            chosen -= self._matching(module, pattern, "freeze")
        chosen -= {parameter for name, parameter in module.named_parameters() if name in model.unread}
        if not chosen:
            raise UsageError("tuner: train and freeze leave nothing of the model to be trained.")
        for pattern in self.options.lr_scale:
            self._matching(module, pattern, "lr_scale")
        for parameter in module.parameters():
            parameter.requires_grad_(parameter in chosen)

    def parameter_groups(self, module: nn.Module) -> Sequence[ParamGroup]:
        """The trained parameters by factor on the learning rate, those without weight decay apart."""
        exempt = parameters.undecayed(module)
        trained = [p for p in module.parameters() if p.requires_grad]
        found = parameters.scaled(module, trained, self.options.lr_scale, self._groups)
        return [g for name, scale, part in found for g in parameters.split(part, exempt, name or "full", scale)]

    def adapter_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """Never: the untuned weights are gone."""
        raise TkError("The tuner full has no adapter to switch off: use a copy of the model, or the tuner lora.")

    def adapters(self, model: LoadedModel) -> Adapters:
        """Never: it writes whole models."""
        raise TkError("The tuner full writes whole models, which cannot be offered beside one another: use lora.")

    def save(self, model: LoadedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """A whole transformers checkpoint: `weights` over the module's own."""
        saving.save(model, folder, weights)

    def load(self, model: LoadedModel, folder: Path) -> None:
        """Read the weights of a checkpoint of the same architecture into the module."""
        try:
            with quiet():
                stored = type(model.module).from_pretrained(
                    folder, dtype=model.module.dtype, local_files_only=True, use_safetensors=True
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise TkError(f"{folder}: no checkpoint that fits this model: {error}") from error
        with torch.no_grad():
            theirs = dict(stored.named_parameters())
            for name, parameter in model.module.named_parameters():
                if name not in theirs or theirs[name].shape != parameter.shape:
                    raise TkError(f"{folder} is of another model: its {name} is missing or has another shape.")
                parameter.copy_(theirs[name])

    def changes_output(self, model: LoadedModel) -> bool:
        """True: there is nothing left to compare with."""
        return True

    def merge(self, model: LoadedModel) -> None:
        """Nothing to do: what was trained is the model."""

    def _matching(self, module: nn.Module, pattern: str, option: str) -> set[nn.Parameter]:
        return matching(module, pattern, self._groups, f"tuner.{option}")
