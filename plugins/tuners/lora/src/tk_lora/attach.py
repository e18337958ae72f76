"""From options to peft's LoraConfig, with what peft would let pass in silence refused by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn
from transformers.pytorch_utils import Conv1D

from tk.contracts import LoadedModel
from tk.errors import UsageError, nearest
from tk_lora import fused
from tk_lora.options import LoraOptions

ALL_LINEAR = "all-linear"


def attach(model: LoadedModel, options: LoraOptions) -> PeftModel:
    """The module with adapters on it. Raises UsageError naming the option and the nearest module."""
    module = model.module
    options = _by_group(options, model)
    _check_names(module, options)
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they are about is checked above or set here
            config = peft_config(module, options, model.path)
            fused.use_in(config)
            if on_meta and changes_base(options):
                config.init_lora_weights = True  # shapes are the same, and there are no weights to decompose
            peft_model = get_peft_model(module, config, low_cpu_mem_usage=on_meta)
    except ValueError as error:
        raise UsageError(f"tuner: {error}") from error
    config.init_lora_weights = _init(options.init)
    peft_model.train(module.training)
    if changes_base(options):
        _check_decomposable(peft_model, options)
    return peft_model


def _by_group(options: LoraOptions, model: LoadedModel) -> LoraOptions:
    """The options with groups of the model's modules as regexes of their names."""
    several = len(model.groups) > 1
    wanted = options.groups or (["language_model"] if several else [])
    for name in wanted:
        if name not in model.groups:
            raise UsageError(f"tuner.groups: {model.path} has no group {name!r}.{nearest(name, model.groups)}")
    patterns = [
        {_under(model.groups[key]) if several and key in model.groups else key: value for key, value in given.items()}
        for given in (options.rank_pattern, options.alpha_pattern)
    ]
    options = replace(options, rank_pattern=patterns[0], alpha_pattern=patterns[1])
    if not several or (isinstance(options.targets, str) and options.targets != ALL_LINEAR):
        if options.groups:
            raise UsageError("tuner.groups: give groups, or targets as a regex of whole names, not both.")
        return options
    prefix = _under([part for name in wanted for part in model.groups[name]], "")
    inside = [(name, part) for name, part in model.module.named_modules() if re.match(prefix, name)]
    linear = {name.rpartition(".")[2] for name, part in inside if _is_linear(part)}
    ends = sorted(linear) if isinstance(options.targets, str) else [re.escape(end) for end in options.targets]
    other = [name for name, part in inside if not _is_linear(part) and name.rpartition(".")[2] in linear]
    skipped = [name for name, _ in inside if f"{name}.weight" in model.unread]
    skipped += other if isinstance(options.targets, str) else []
    if skipped:
        prefix = rf"(?!(?:{'|'.join(map(re.escape, skipped))})$){prefix}"
    layers = "|".join(map(str, options.layers_to_transform))
    numbered = rf"\w+\.(?:{layers})\.(?:.*\.)?" if layers else ""
    targets = rf"{prefix}(?:.*\.)?{numbered}(?:{'|'.join(ends)})"
    return replace(options, targets=targets, layers_to_transform=[])


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def _under(prefixes: Sequence[str], rest: str = ".*") -> str:
    """A regex of the names below some modules."""
    return rf"(?:{'|'.join(map(re.escape, prefixes))})\.{rest}"


def changes_base(options: LoraOptions) -> bool:
    """Whether the initialisation takes the adapter's first value out of the base weights."""
    return options.init == "olora" or options.init.startswith("pissa")


def peft_config(module: nn.Module, options: LoraOptions, path: str) -> LoraConfig:
    """peft's own config of the same adapter."""
    task = _task(module)
    optional: dict[str, Any] = {
        "exclude_modules": _with_heads(module, options.exclude) if task is TaskType.TOKEN_CLS else options.exclude,
        "modules_to_save": options.modules_to_save,
        "layers_to_transform": options.layers_to_transform,
        "target_parameters": options.target_parameters,
        "trainable_token_indices": options.token_indices,
    }
    return LoraConfig(
        task_type=task,
        base_model_name_or_path=path,
        r=options.rank,
        lora_alpha=options.alpha if options.alpha is not None else 2 * options.rank,
        lora_dropout=options.dropout,
        bias=options.bias,
        target_modules=_targets(module, options),
        use_rslora=options.rslora,
        use_dora=options.dora,
        init_lora_weights=_init(options.init),
        rank_pattern=dict(options.rank_pattern),
        alpha_pattern=dict(options.alpha_pattern),
        ensure_weight_tying=_touches_ties(module, options),
        **{name: _copied(value) for name, value in optional.items() if value},
    )


def _targets(module: nn.Module, options: LoraOptions) -> str | list[str]:
    """The targets as peft takes them: with a choice of layers, it wants the names that all-linear stands for."""
    if not options.layers_to_transform or not isinstance(options.targets, str):
        return _copied(options.targets)
    if options.targets != ALL_LINEAR:
        raise UsageError("tuner.layers_to_transform: give targets as a list of names, or all-linear, not as a regex.")
    linear = {name for name, part in module.named_modules() if isinstance(part, (nn.Linear, Conv1D))}
    return sorted({name.rpartition(".")[2] for name in linear if "." in name})


def _with_heads(module: nn.Module, exclude: str | list[str]) -> str | list[str]:
    """Also exclude the head of a token classifier, which peft trains whole."""
    heads = [name for name, _ in module.named_children() if name in ("score", "classifier")]
    return "|".join([f"({exclude})", *heads]) if isinstance(exclude, str) else [*exclude, *heads]


def _copied(value: str | list[Any]) -> str | list[Any]:
    return value if isinstance(value, str) else list(value)  # peft adds to the lists that it is given


def _init(init: str) -> Any:
    return True if init == "true" else init


def _task(module: nn.Module) -> TaskType:
    """The task whose head peft knows: heads of classifiers are trained whole and saved with the adapter.

    A model without a head (for vectors) generates nothing.
    """
    name = type(module).__name__
    if name.endswith("ForTokenClassification"):
        return TaskType.TOKEN_CLS
    if name.endswith("ForSequenceClassification"):
        return TaskType.SEQ_CLS
    return TaskType.CAUSAL_LM if hasattr(module, "prepare_inputs_for_generation") else TaskType.FEATURE_EXTRACTION


def _tied(module: nn.Module) -> dict[str, str]:
    """Module whose weight is a copy -> module whose weight it is."""
    ties = getattr(module, "all_tied_weights_keys", {})
    return {copy.rpartition(".")[0]: source.rpartition(".")[0] for copy, source in ties.items()}


def _touches_ties(module: nn.Module, options: LoraOptions) -> bool:
    """Whether a tied embedding is trained whole, and so has to stay tied. Raises UsageError where it could not."""
    touched = False
    for copy, source in _tied(module).items():
        if {copy, source} & _matched(module, options.targets):
            # merging would add the update to the shared weight twice
            raise UsageError(
                f"tuner.targets: {source!r} and {copy!r} are one weight, which gets no adapter: "
                f"put {source!r} into modules_to_save."
            )
        saved = _matched(module, options.modules_to_save)
        if copy in saved and source not in saved:
            raise UsageError(f"tuner.modules_to_save: {copy!r} has the weight of {source!r}: name {source!r} instead.")
        if source in saved and source.rpartition(".")[2] not in EMBEDDING_LAYER_NAMES:
            raise UsageError(
                f"tuner.modules_to_save: peft cannot keep {source!r} and {copy!r} one weight in this model."
            )
        touched |= source in saved
    return touched


def _matched(module: nn.Module, wanted: str | list[str]) -> set[str]:
    """Names of modules that a list of (ends of) names or a regex of whole names stands for."""
    names = [name for name, _ in module.named_modules()]
    if wanted == ALL_LINEAR:
        return set()
    if isinstance(wanted, str):
        return {name for name in names if re.fullmatch(wanted, name)}
    return {name for name in names for end in wanted if name == end or name.endswith(f".{end}")}


def _check_names(module: nn.Module, options: LoraOptions) -> None:
    settings = (
        ("targets", options.targets),
        ("exclude", options.exclude),
        ("modules_to_save", options.modules_to_save),
    )
    for option, wanted in settings:
        for each in [wanted] if isinstance(wanted, str) else wanted:
            _check_name(module, option, each, is_regex=isinstance(wanted, str))
    parameters = [name for name, _ in module.named_parameters()]
    for each in options.target_parameters:
        if not any(name == each or name.endswith(f".{each}") for name in parameters):
            raise UsageError(f"tuner.target_parameters: the model has no {each!r}.{nearest(each, parameters)}")
    for option, pattern in (("rank_pattern", options.rank_pattern), ("alpha_pattern", options.alpha_pattern)):
        for each in pattern:
            if not any(re.match(rf"(.*\.)?({each})$", name) for name, _ in module.named_modules()):
                raise UsageError(f"tuner.{option}: {each!r} matches no module.{nearest(each, _ends(module))}")


def _check_name(module: nn.Module, option: str, wanted: str, *, is_regex: bool) -> None:
    if is_regex and wanted == ALL_LINEAR:
        return
    try:
        matched = _matched(module, wanted if is_regex else [wanted])
    except re.error as error:
        raise UsageError(f"tuner.{option}: {wanted!r} is not a regular expression: {error}") from error
    if not matched:
        ends = _ends(module)
        hint = nearest(wanted.rpartition(".")[2], ends) or f" It has: {', '.join(sorted(ends))}."
        raise UsageError(f"tuner.{option}: the model has no module {wanted!r}.{hint}")


def _ends(module: nn.Module) -> set[str]:
    """Last parts of the names of the modules that hold weights."""
    holders = (name for name, m in module.named_modules() if any(True for _ in m.parameters(recurse=False)))
    return {name.rpartition(".")[2] for name in holders}


def _check_decomposable(peft_model: PeftModel, options: LoraOptions) -> None:
    for name, layer in lora_layers(peft_model):
        base = layer.get_base_layer()
        if options.init == "olora" and isinstance(base, Conv1D):
            raise UsageError("tuner.init: olora does not work on this model's layers (Conv1D): use pissa.")
        if not isinstance(base, (nn.Linear, Conv1D)):
            raise UsageError(f"tuner.init: {options.init} works on linear layers only, and {name!r} is none.")
        if layer.r["default"] > min(base.weight.shape):
            raise UsageError(
                f"tuner.rank: {options.init} needs a rank of at most {min(base.weight.shape)}, the least side of {name!r}."
            )


def lora_layers(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """Every layer with a low-rank adapter, by name."""
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer))


def initial_values(module: nn.Module, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Copies of the trained parameters in whose name one of the parts stands, by name."""
    return {
        name: parameter.detach().clone() if parameter.is_meta else parameter.detach().to("cpu", copy=True)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and any(part in name for part in parts)
    }
