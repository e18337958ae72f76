"""The tuner `lora`: adapters on a model, their parameter groups, and files that plain peft opens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tk.contracts import LoadedModel, ParamGroup
from tk.errors import TkError
from tk.files import explained, staged
from tk_auto import parameters
from tk_lora import base_free
from tk_lora.adapters import LoraAdapters
from tk_lora.attach import attach, changes_base, initial_values
from tk_lora.options import LoraOptions

ADAPTER = "default"


class LoraTuner:
    """Low-rank adapters by peft, on one model."""

    def __init__(self, options: LoraOptions) -> None:
        self.options = options
        self._initial: dict[str, Tensor] = {}
        self._biases: dict[str, Tensor] = {}
        self._groups: Mapping[str, tuple[str, ...]] = {}

    def attach(self, model: LoadedModel) -> None:
        """Put adapters on the model; its module becomes peft's. Raises UsageError for names that it does not have."""
        self._groups = model.groups
        model.module = attach(model, self.options)
        if changes_base(self.options):
            self._initial = initial_values(model.module, (".lora_A.", ".lora_B."))
        if self.options.bias != "none":
            self._biases = initial_values(model.module, (".bias",))

    def parameter_groups(self, module: nn.Module) -> Sequence[ParamGroup]:
        """A and what else is trained, and B at LoRA+'s ratio; vectors and norms without weight decay."""
        names = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
        exempt = parameters.undecayed(module)
        found: list[ParamGroup] = []
        for pattern, scale, part in parameters.scaled(module, list(names), self.options.lr_scale, self._groups):
            up = [p for p in part if ".lora_B." in names[p] or ".lora_embedding_B." in names[p]]
            down, name = [p for p in part if p not in set(up)], f"lora {pattern}".strip()
            found += parameters.split(down, exempt, name, scale)
            found += parameters.split(up, exempt, f"{name} B", scale * self.options.lora_plus_ratio)
        return found

    def adapter_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """The base model for as long as it is entered. Raises TkError where options change the base itself."""
        if changes_base(self.options):
            raise TkError(
                f"tuner.init: with {self.options.init} the base weights are changed, so that switching the adapter off "
                "does not give the untuned model: use init true, gaussian or orthogonal, or a copy of the model."
            )
        if self.options.bias != "none":
            raise TkError("tuner.bias: trained biases stay when the adapter is off: use bias none, or a copy.")
        off: AbstractContextManager[None] = _peft_model(module).disable_adapter()
        return off

    def save(self, model: LoadedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """adapter_config.json and adapter_model.safetensors, for the unchanged base. `weights` by parameter name."""
        module = _peft_model(model.module)
        state = self._complete(module, weights)
        config = module.peft_config[ADAPTER]
        tensors = _peft_state(module, state)
        if changes_base(self.options):
            initial = _peft_state(module, {**state, **self._initial})
            joined = [name for name in initial if ".lora_A." in name or ".lora_B." in name]
            tensors = base_free.doubled(tensors, {name: initial[name] for name in joined})
            config = base_free.doubled_config(config)
        with explained(folder, SafetensorError), staged(folder, last="adapter_config.json") as work:
            # copies: tied modules share tensors, which safetensors does not write
            save_file({n: t.clone().contiguous() for n, t in tensors.items()}, work / SAFETENSORS_WEIGHTS_NAME)
            inference, config.inference_mode = config.inference_mode, True
            config.save_pretrained(str(work))
            config.inference_mode = inference

    def load(self, model: LoadedModel, folder: Path) -> None:
        """Read an adapter into the attached module. Raises TkError where it is of another shape or not there."""
        module = _peft_model(model.module)
        tensors = _read(folder)
        if changes_base(self.options):
            tensors, initial = base_free.halved(tensors)
            stored = {_parameter_name(name): tensor for name, tensor in initial.items()}
            if stored.keys() != self._initial.keys() or any(
                stored[name].shape != self._initial[name].shape for name in stored
            ):
                raise TkError(f"{folder}: the adapter does not fit the tuner's options (its layers or rank differ).")
            base_free.rebase(module, self._initial, stored)
            self._initial = stored
        _check_names(module, tensors, folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that base weights are missing, which they are meant to be
                set_peft_model_state_dict(module, tensors, ADAPTER)
        except RuntimeError as error:
            raise TkError(f"{folder}: the adapter does not fit the tuner's options: {error}") from error

    def adapters(self, model: LoadedModel) -> LoraAdapters:
        """Adapters beside the one that is attached, or beside none."""
        return LoraAdapters(model, ADAPTER)

    def merge(self, model: LoadedModel) -> None:
        """Fold the adapter into the base weights; the module is a plain model again. Raises TkError at NaN."""
        try:
            model.module = _peft_model(model.module).merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise TkError(f"The adapter cannot be merged: {error}") from error
        model.module.requires_grad_(True)

    def changes_output(self, model: LoadedModel) -> bool:
        """Whether the tuned model differs from the untuned one on a short row of token ids.

        At all where B begins at zero; beyond rounding where the base's part is computed anew.
        """
        module = _peft_model(model.module)
        rows = min(16, module.config.get_text_config().vocab_size)
        ids = torch.arange(rows, device=next(module.parameters()).device)[None]
        modes = {part: part.training for part in module.modules()}
        module.eval()
        try:
            with torch.no_grad():
                tuned, untuned = module(input_ids=ids)[0], self._untuned(module, ids)
        finally:
            for part, mode in modes.items():
                part.training = mode
        exact = self.options.init in ("true", "gaussian") and not self.options.dora
        return bool((tuned - untuned).abs().max() > (0.0 if exact else 1e-6) * untuned.abs().max())

    def _untuned(self, module: Any, ids: Tensor) -> Tensor:
        own = dict(module.named_parameters())
        first = {name: tensor.to(own[name]) for name, tensor in {**self._initial, **self._biases}.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about trained biases, which are put back here
            with nullcontext() if changes_base(self.options) else module.disable_adapter():
                output: Tensor = torch.func.functional_call(module, first, kwargs={"input_ids": ids})[0]
        return output

    def _complete(self, module: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: p.detach() for name, p in module.named_parameters(remove_duplicate=False)}
        unknown = sorted(set(weights) - set(own))
        if unknown:
            raise TkError(f"The adapted model has no weights named {', '.join(unknown[:3])}.")
        aliases = {
            id(p): weights[name] for name, p in module.named_parameters(remove_duplicate=False) if name in weights
        }
        for name, parameter in module.named_parameters(remove_duplicate=False):
            own[name] = aliases.get(id(parameter), own[name])
        return own


def _peft_model(module: nn.Module) -> Any:
    """The peft model in a module that holds one."""
    for part in module.modules():
        if isinstance(part, PeftModel):
            return part
    raise TkError("The model has no adapter: attach the tuner first.")


def _peft_state(module: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapter tensors by peft's file names, out of tensors by parameter name."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        module, state_dict=dict(state), adapter_name=ADAPTER, save_embedding_layers=False
    )
    return tensors


def _parameter_name(name: str) -> str:
    """peft's file name of an A or B matrix -> the parameter's name."""
    return name.removesuffix(".weight") + f".{ADAPTER}.weight"


def _read(folder: Path) -> dict[str, Tensor]:
    file = folder / SAFETENSORS_WEIGHTS_NAME
    if not file.is_file():
        raise TkError(f"{folder} holds no adapter: there is no {SAFETENSORS_WEIGHTS_NAME}.")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise TkError(f"{file} is damaged: {error}") from error


def _check_names(module: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    expected = set(_peft_state(module, module.state_dict()))
    if expected != set(tensors):
        differing = sorted(expected ^ set(tensors))
        raise TkError(
            f"{folder}: the adapter does not fit the tuner's options: {differing[0]} "
            f"{'is missing' if differing[0] in expected else 'has no place'} ({len(differing)} names differ)."
        )
