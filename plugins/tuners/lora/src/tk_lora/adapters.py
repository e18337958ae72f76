"""Several LoRA adapters on one model, each row of a forward by the one that it names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError

from tk.contracts import LoadedModel
from tk.errors import TkError, UsageError

BASE = "__base__"
"""peft's name of no adapter."""


class LoraAdapters:
    """Implements tk.contracts.Adapters by peft. own: the adapter that the model answers with where none is named."""

    def __init__(self, model: LoadedModel, own: str) -> None:
        self._model = model
        self._own = own if isinstance(model.module, PeftModel) else BASE
        self.names: tuple[str, ...] = ()

    def add(self, name: str, folder: Path) -> None:
        """Read an adapter from a folder that peft wrote. Raises UsageError for a name in use, TkError for what does not fit."""
        if not name or name in (*self.names, self._own, BASE):
            raise UsageError(f"An adapter cannot be called {name!r}: the name is taken.")
        _served(folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if not isinstance(self._model.module, PeftModel):
                    config = PeftConfig.from_pretrained(str(folder))
                    self._model.module = get_peft_model(self._model.module, config, adapter_name=name)
                self._model.module.load_adapter(str(folder), adapter_name=name)
        except (RuntimeError, ValueError, OSError, SafetensorError) as error:
            self._drop(name)
            raise TkError(f"{folder}: the adapter does not fit the model: {error}") from error
        self._model.module.eval()
        if not self._changes(name):
            self._drop(name)
            raise TkError(f"{folder}: the adapter changes nothing of what the model computes.")
        self.names = (*self.names, name)

    def remove(self, name: str) -> None:
        """Raises UsageError where there is none of that name."""
        if name not in self.names:
            raise UsageError(f"There is no adapter {name!r}: {', '.join(self.names) or 'none is loaded'}.")
        self.names = tuple(other for other in self.names if other != name)
        self._drop(name)

    def chosen(self, names: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(self._model.module, PeftModel):
            return {}
        return {"adapter_names": [name or self._own for name in names]}

    def _drop(self, name: str) -> None:
        """Take an adapter out of the module; with the last one the module is the plain model again."""
        module = self._model.module
        if not isinstance(module, PeftModel) or name not in module.peft_config:
            return
        if len(module.peft_config) == 1:
            self._model.module = module.unload()
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which one is active says nothing here: every row names its own
            module.delete_adapter(name)

    def _changes(self, name: str) -> bool:
        module = self._model.module
        rows = min(16, module.config.get_text_config().vocab_size)
        ids = torch.arange(rows, device=next(module.parameters()).device).repeat(2, 1)
        with torch.no_grad():
            plain, adapted = module(input_ids=ids, adapter_names=[BASE, name])[0]
        return bool((plain != adapted).any())


def _served(folder: Path) -> None:
    """Raises TkError for a folder without an adapter, and for one that cannot be told apart by row."""
    if not (folder / "adapter_config.json").is_file():
        raise TkError(f"{folder} holds no adapter: there is no adapter_config.json.")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TkError(f"{folder}: its adapter_config.json cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise TkError(f"{folder}: an adapter of the type {config.peft_type} cannot be offered beside others.")
    if config.use_dora:
        raise TkError(f"{folder}: DoRA cannot be computed for some rows only: export it merged (`tk export`).")
    if config.modules_to_save or config.bias != "none":
        raise TkError(f"{folder}: it replaces weights of the model, for all rows: export it merged (`tk export`).")
