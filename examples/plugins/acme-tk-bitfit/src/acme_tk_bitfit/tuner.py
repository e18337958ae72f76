"""The tuner `bitfit`: simple bias-only fine-tuning (Ben Zaken et al., arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from acme_tk_bitfit.options import BitFitOptions
from tk.contracts import Adapters, LoadedModel, ParamGroup
from tk.errors import TkError, UsageError
from tk_auto import saving


class BitFit:
    """A Tuner (tk.contracts). What it saves is a whole checkpoint of plain transformers."""

    def __init__(self, options: BitFitOptions) -> None:
        self.options = options

    def attach(self, model: LoadedModel) -> None:
        """Freeze everything but biases. Raises UsageError where the model has none (of the modules asked for)."""
        chosen = {name for name, _ in model.module.named_parameters() if self._trains(name)}
        if not chosen:
            where = f" in modules named {', '.join(self.options.only)}" if self.options.only else ""
            raise UsageError(f"tuner: {type(model.module).__name__} has no biases{where}; use the tuner lora or full.")
        for name, parameter in model.module.named_parameters():
            parameter.requires_grad_(name in chosen)

    def parameter_groups(self, module: nn.Module) -> Sequence[ParamGroup]:
        """One group, without weight decay."""
        return [ParamGroup([p for p in module.parameters() if p.requires_grad], decay=False, name="biases")]

    def adapter_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """Never: the untuned biases are gone."""
        raise TkError("The tuner bitfit has no adapter to switch off: use a copy of the model, or the tuner lora.")

    def adapters(self, model: LoadedModel) -> Adapters:
        """Never: it writes whole models."""
        raise TkError("The tuner bitfit writes whole models, which cannot be offered beside one another.")

    def save(self, model: LoadedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """The model with the trained biases, as a checkpoint."""
        saving.save(model, folder, weights)

    def load(self, model: LoadedModel, folder: Path) -> None:
        """Read the trained biases of a checkpoint. Raises TkError where one is missing or of another size."""
        stored = _tensors(folder, [name for name, p in model.module.named_parameters() if p.requires_grad])
        with torch.no_grad():
            for name, tensor in stored.items():
                parameter = model.module.get_parameter(name)
                if parameter.shape != tensor.shape:
                    raise TkError(f"{folder} is of another model: its {name} has another size.")
                parameter.copy_(tensor)

    def changes_output(self, model: LoadedModel) -> bool:
        """True: the untuned biases are gone."""
        return True

    def merge(self, model: LoadedModel) -> None:
        """Nothing to do: the biases are the model's own."""

    def _trains(self, name: str) -> bool:
        *modules, kind = name.split(".")
        return kind == "bias" and (not self.options.only or any(module in self.options.only for module in modules))


def _tensors(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, whole or in shards; nothing else is read."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys() if name in names}  # noqa: SIM118
    missing = [name for name in names if name not in found]
    if missing:
        raise TkError(f"{folder} lacks {missing[0]}" + (f" and {len(missing) - 1} more." if missing[1:] else "."))
    return found
