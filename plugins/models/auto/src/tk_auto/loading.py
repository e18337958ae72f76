"""Opens a checkpoint folder with transformers' Auto classes, and says what the model in it can do."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

from tk.contracts import Head, LoadedModel
from tk.errors import TkError, UsageError
from tk_auto import sentences
from tk_auto.hub import check_folder
from tk_auto.quiet import quiet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HEAD_SEED = 0
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers (config.layer_types) that keep packed samples apart by position ids or masks."""

NEW = frozenset({"score", "classifier", "pooler"})
"""Parts of a head that a checkpoint without one does not have."""
GROUPS = {
    "language_model": ("model.language_model", "language_model", "lm_head", "model.text_model"),
    "vision_tower": ("model.visual", "visual", "model.vision_tower", "vision_tower", "model.vision_model"),
    "aligner": (
        "model.multi_modal_projector",
        "multi_modal_projector",
        "model.image_newline",
        "image_newline",
        "model.connector",
        "model.aligner",
    ),
}
"""Names that transformers' models of several modalities give to their parts and to parameters outside of them; a model of
text is one group."""


def load(folder: Path, device: str, dtype: str, head: Head, attention: str, trust_remote_code: bool) -> LoadedModel:
    """See AutoFamily.load."""
    check_folder(folder)
    if device == "auto":
        device = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    config = _config(folder, trust_remote_code)
    weights = _dtype(dtype, device, config)
    auto = _auto_class(folder, config, head, trust_remote_code)
    tokenizer = _tokenizer(folder, trust_remote_code)
    if head.kind == "score":
        _set_labels(config, head, tokenizer)
    settings: dict[str, Any] = {"dtype": weights, "trust_remote_code": trust_remote_code}
    if attention != "auto":
        settings["attn_implementation"] = attention
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(HEAD_SEED)  # weights are drawn on the CPU
            module = (
                _on_meta(auto, config, settings) if device == "meta" else _read(auto, folder, config, settings, head)
            )
    except ImportError as error:
        raise TkError(f"{folder}: {error}") from error
    except ValueError as error:
        if attention != "auto" and "attention" in str(error).lower():
            raise UsageError(f"model.attention: {attention!r} does not work here: {error}") from error
        raise TkError(f"{folder}: {error}") from error
    if device not in ("meta", "cpu"):
        module = module.to(device)
    module.eval()
    if head.kind == "none" and head.pooling is None:
        head = replace(head, pooling=sentences.pooling_of(folder))
    return LoadedModel(
        module, tokenizer, str(folder), head=head, groups=groups_of(module), supports=supports_of(module, head)
    )


def _config(folder: Path, trust_remote_code: bool) -> Any:
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TkError(f"{folder}/config.json cannot be read: {error}") from error
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    if not model_type:
        raise TkError(f"{folder}/config.json names no model_type, so transformers cannot tell what the checkpoint is.")
    if model_type not in CONFIG_MAPPING and not trust_remote_code:
        if "auto_map" in raw:
            raise TkError(
                f"{folder} is a {model_type!r}, which needs Python code that comes with the checkpoint: "
                "read it, then allow it with --model.trust-remote-code."
            )
        raise TkError(f"{folder} is a {model_type!r}, which the installed transformers does not know.")
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TkError(f"{folder}/config.json is not a config of {model_type!r}: {error}") from error


def _dtype(wish: str, device: str, config: Any) -> torch.dtype:
    """fp32 on a CPU, the checkpoint's own elsewhere; a plan on the meta device is for the machine that it runs on."""
    if wish != "auto":
        return DTYPES[wish]
    on_cpu = device == "cpu" or (device == "meta" and not torch.accelerator.is_available())
    return torch.float32 if on_cpu or config.dtype is None else config.dtype


def _auto_class(folder: Path, config: Any, head: Head, trust_remote_code: bool) -> Any:
    if head.kind == "lm":
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or (trust_remote_code and hasattr(config, "auto_map")):
            return AutoModelForCausalLM
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return AutoModelForImageTextToText
        raise TkError(f"{folder} is a {config.model_type!r}, which transformers does not have as a language model.")
    if head.kind == "none":
        return AutoModel
    if head.kind == "score":
        if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            return AutoModelForSequenceClassification
        if type(config) in MODEL_MAPPING:
            return _classifier(GenericForSequenceClassification, config)
        raise TkError(f"{folder} is a {config.model_type!r}, for which transformers has no sequence classifier.")
    config.num_labels = 1
    config.classifier_dropout = 0.0  # transformers' default is 0.1, also in models that drop out nothing else
    if type(config) in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return AutoModelForTokenClassification
    if type(config) in MODEL_MAPPING:
        return _classifier(GenericForTokenClassification, config)
    raise TkError(f"{folder} is a {config.model_type!r}, for which transformers has no model to put a value head on.")


def _generator(config: Any) -> str:
    """Name of the class that generates with a backbone, "" where there is none."""
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        if type(config) in mapping:
            return str(mapping[type(config)].__name__)
    return ""


def _classifier(generic: type, config: Any) -> Any:
    """A classifier on a backbone for which transformers names none, by one of its own generic ones.

    Checkpoints have the names of weights of the model that generates; transformers renames older ones by its class.
    """
    base = next(c for c in MODEL_MAPPING[type(config)].__mro__ if c.__name__.endswith("PreTrainedModel"))
    name = base.__name__.removesuffix("PreTrainedModel") + generic.__name__.removeprefix("Generic")
    made = type(name, (generic, base), {"__module__": __name__})
    if renamed := get_checkpoint_conversion_mapping(_generator(config)):
        register_checkpoint_conversion_mapping(name, renamed, overwrite=True)
    return made


def _set_labels(config: Any, head: Head, tokenizer: Any) -> None:
    """What the checkpoint's config says of its labels; padding is what the last token is found by."""
    config.num_labels = len(head.labels)
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: index for index, label in enumerate(head.labels)}
    config.problem_type = head.problem or None
    config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id


def _on_meta(auto: Any, config: Any, settings: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        if hasattr(auto, "from_config"):
            module: nn.Module = auto.from_config(config, **settings)
        else:  # a model's own class, which is no remote code
            module = auto._from_config(config, **{k: v for k, v in settings.items() if k != "trust_remote_code"})
    return module


def _read(auto: Any, folder: Path, config: Any, settings: dict[str, Any], head: Head) -> nn.Module:
    if not any(folder.glob("*.safetensors")):
        raise TkError(f"{folder} has no *.safetensors; weights in other formats are not read.")
    try:
        module, report = auto.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True, **settings
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TkError(f"The weights in {folder} cannot be read: {error}") from error
    missing = sorted(key for key in report["missing_keys"] if not NEW.intersection(key.split(".")))
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise TkError(f"{folder} lacks weights that a {config.model_type!r} has: {shown}.")
    loaded: nn.Module = module
    if head.kind == "value":  # a new head expects nothing yet
        new = set(report["missing_keys"])
        for name, parameter in loaded.named_parameters():
            if name in new:
                nn.init.zeros_(parameter)
    return loaded


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TkError(f"{folder} has no tokenizer that transformers opens: {error}") from error
    tokenizer.chat_template = _processor_template(folder) or tokenizer.chat_template
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise TkError(f"{folder}: the tokenizer has neither a padding nor an end token.")
        tokenizer.pad_token = tokenizer.eos_token  # an id that is there: embeddings keep their size
    return tokenizer


def _processor_template(folder: Path) -> str | None:
    """The chat template of a checkpoint's processor, where it stands in a file that tokenizers do not read."""
    for name in ("processor_config.json", "chat_template.json"):
        if (folder / name).is_file():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
            except (ValueError, AttributeError) as error:
                raise TkError(f"{folder / name} cannot be read: {error}") from error
            if isinstance(found, str) and found:
                return found
    return None


def groups_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Module groups by the names of the module's parts; a model of text alone is one "language_model"."""
    names = {name for named in (module.named_modules(), module.named_parameters()) for name, _ in named}
    found = {group: tuple(n for n in prefixes if n in names) for group, prefixes in GROUPS.items()}
    found = {group: prefixes for group, prefixes in found.items() if prefixes}
    return found if len(found) > 1 else {"language_model": ("",)}


def supports_of(module: nn.Module, head: Head) -> frozenset[str]:
    """Capabilities that the model's own config and forward promise."""
    parameters = inspect.signature(module.forward).parameters
    config: Any = module.config
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None)
    attends = ATTENTION_LAYERS.issuperset(layers) if layers else not getattr(module, "_is_stateful", False)
    found = {"sharding"}
    if attends:
        found.add("padding-left")
        if "position_ids" in parameters and getattr(module, "_supports_sdpa", False):
            found.add("packing")
    if head.kind == "lm" and "logits_to_keep" in parameters:
        found.add("index-select")
    if getattr(module, "supports_gradient_checkpointing", False):
        found.add("gradient-checkpointing")
    return frozenset(found)
