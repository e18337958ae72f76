"""One forward of the module in memory with a cache: its logits, and nothing of it changed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tk.contracts import Layout, LoadedModel
from tk_tensor.probe import at_rest


class Forward:
    """Logits of the tokens that follow; whatever training mode the module's parts are in, they are in afterwards."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._adapters = model.adapters
        self.layout = Layout(int(model.tokenizer.pad_token_id), "left", media=model.media)
        self._base: Any = self.module.get_base_model() if hasattr(self.module, "get_base_model") else self.module
        self.config = self._base.config
        self.takes = frozenset(inspect.signature(self._base.forward).parameters)
        self._cache_name = "cache" if "cache" in self.takes else "past_key_values"
        first = next(self.module.parameters())
        self.device, self.dtype = first.device, first.dtype
        # A token that stands for a medium would have none behind it.
        marks = list(model.media.marks.values()) if model.media else []
        self._marks = torch.tensor(marks, dtype=torch.long, device=self.device)

    @property
    def module(self) -> nn.Module:
        """As it is now: with the first adapter that is loaded, and without the last one, it is another."""
        module: nn.Module = self._model.module
        return module

    def __call__(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Any,
        cache: Any,
        media: Mapping[str, Tensor] | None = None,
        ends: Tensor | None = None,
        adapters: Sequence[str] = (),
    ) -> Tensor:
        """Float32 logits [B, V] after each row's last token; `ends` [B]: after that column of each row.

        ids: [B, T]. positions: [B, T] or [axes, B, T]. mask: whatever the model takes as its attention mask. adapters: of
        each row.
        """
        kept = ends.unique() if ends is not None else None
        logits = self.logits(ids, positions, mask, cache, media, 1 if kept is None else kept, adapters)
        return self.next(self._last(logits, ids.shape[1], kept, ends))

    def next(self, logits: Tensor) -> Tensor:
        """Logits [B, V] in float32, of tokens that may come next."""
        return logits.float().index_fill(1, self._marks, float("-inf"))

    def logits(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Any,
        cache: Any,
        media: Mapping[str, Tensor] | None = None,
        keep: int | Tensor = 0,
        adapters: Sequence[str] = (),
    ) -> Tensor:
        """The model's logits [B, T, V]; `keep`: after the last so many columns, or some columns, where it can do less than all."""
        media = {name: value.to(self.device) for name, value in (media or {}).items()}
        inputs: dict[str, Any] = {self._cache_name: cache, "use_cache": True, "attention_mask": mask, **media}
        if "position_ids" in self.takes:
            inputs["position_ids"] = positions
        if self._adapters is not None:
            inputs |= self._adapters.chosen(adapters)
        if "logits_to_keep" in self.takes:
            inputs["logits_to_keep"] = keep
        with torch.no_grad(), at_rest(self.module):
            logits: Tensor = self.module(input_ids=ids, **inputs).logits
        return logits

    def later_mask(self, ids: Tensor, mask: Tensor, cache: Any) -> Any:
        """The mask [B, T] as the model takes it once there is a cache: recurrent layers take none for a single token."""
        inputs = {self._cache_name: cache, "use_cache": True, "attention_mask": mask, "is_first_iteration": False}
        return self._base.prepare_inputs_for_generation(ids, **inputs).get("attention_mask")

    @staticmethod
    def _last(logits: Tensor, length: int, kept: Tensor | None, ends: Tensor | None) -> Tensor:
        """One position of each row, out of those that the model has given."""
        if kept is None or ends is None:
            return logits[:, -1]
        places = ends if logits.shape[1] == length else torch.searchsorted(kept, ends)
        return logits[torch.arange(len(ends), device=logits.device), places]
