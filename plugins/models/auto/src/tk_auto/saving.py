"""Writes a module as a plain transformers checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from tk.contracts import LoadedModel
from tk.errors import TkError
from tk.files import explained, staged
from tk_auto import sentences
from tk_auto.quiet import quiet


def save(model: LoadedModel, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Config, safetensors, generation config, tokenizer and chat template, all or nothing.

    weights: full tensors by the module's names, instead of its own; what they leave out is the module's.
    Raises TkError for names that the module does not have, or where the disk is full.
    """
    state = state_of(model.module, weights or {})
    with explained(folder, SafetensorError), staged(folder) as work, quiet():
        model.module.save_pretrained(work, state_dict=state)
        model.tokenizer.save_pretrained(work)
        if model.media is not None:
            model.media.save(str(work))
        if model.head.kind == "none":
            size = model.module.config.get_text_config().hidden_size
            sentences.write(work, model.head.pooling or "mean", size)


def state_of(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module's state with `weights` in place, each tied weight once, under the name that loading expects."""
    own: dict[str, Any] = module.state_dict(keep_vars=True)
    declared: Mapping[str, str] = getattr(module, "all_tied_weights_keys", {})
    ties = {copy: source for copy, source in declared.items() if own.get(copy) is own.get(source)}
    unknown = [name for name in weights if name not in own]
    if unknown:
        raise TkError(f"The model has no weights named {', '.join(sorted(unknown)[:3])}.")
    state = {name: tensor.detach() for name, tensor in {**own, **weights}.items()}
    for copy, source in ties.items():
        if copy in weights and source not in weights:
            state[source] = weights[copy]
        if source in state:
            state.pop(copy, None)
    unread = [name for name, tensor in state.items() if tensor.is_meta]
    if unread:
        raise TkError(f"The model's weights were not loaded: {unread[0]} and {len(unread) - 1} more are on meta.")
    return state
