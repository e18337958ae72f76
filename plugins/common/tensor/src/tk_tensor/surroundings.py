"""What a forward that is differentiated may run within: noise on its embeddings, activations that wait on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tk.errors import TkError

Surrounding = Callable[[nn.Module, Mapping[str, Any], Mapping[str, Any]], AbstractContextManager[None]]
"""Entered with a role's module, and a batch's inputs and fields, for each pass that is differentiated."""


class EmbeddingNoise:
    """NEFTune (arXiv:2310.05914): each number of an embedded token gets noise, uniform within ± alpha / √(L · H).

    L: tokens of the token's own sample, padding and neighbours in a packed row not counted; H: numbers of an embedding. Padding
    gets none. Drawn from torch's stream, in training mode only.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    @contextmanager
    def __call__(self, module: Any, inputs: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[None]:
        if not module.training:
            yield
            return
        if "segments" not in fields:
            raise TkError("noise on embeddings is drawn for each sample, and in these rows samples share a beginning")
        tokens = tokens_of_samples(fields["segments"], fields["lengths"])

        def noisy(_: nn.Module, __: object, embedded: Tensor) -> Tensor:
            bound = self._alpha / (tokens * embedded.shape[-1]).sqrt()  # 0 where tokens is infinite
            noise = torch.empty_like(embedded).uniform_(-1, 1)
            return embedded + noise * bound.to(embedded.dtype).reshape(*embedded.shape[:-1], 1)

        handle = module.get_input_embeddings().register_forward_hook(noisy)
        try:
            yield
        finally:
            handle.remove()


def tokens_of_samples(segments: Tensor, lengths: Tensor) -> Tensor:
    """[B·T] how many tokens the sample of each token has; infinitely many at padding. segments: [B·T], -1 at padding."""
    of_padding = lengths.new_full((1,), torch.inf, dtype=torch.float32)
    places = torch.where(segments < 0, len(lengths), segments)
    return torch.cat([lengths.to(torch.float32), of_padding]).index_select(0, places)


class Offload:
    """What is kept for the backward pass waits in the memory of the CPU, page-locked where there is a GPU, until it is needed.

    Weights stay where they are, and so does what is smaller than `least` bytes. What several operations keep moves once. Copies
    are in the order of the device's own work, so that nothing waits for them but that work.
    """

    def __init__(self, least: int = 2**20) -> None:
        self._least = least
        self._moved: dict[tuple[object, ...], tuple[weakref.ref[Any], Tensor]] = {}

    @contextmanager
    def __call__(self, module: nn.Module, inputs: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._away, _back):
            yield

    def _away(self, kept: Tensor) -> tuple[torch.device | None, Tensor]:
        weight = isinstance(kept, nn.Parameter) or isinstance(kept._base, nn.Parameter)
        if weight or kept.numel() * kept.element_size() < self._least:
            return None, kept
        storage = kept.untyped_storage()
        key = (storage._cdata, kept.storage_offset(), kept.shape, kept.stride(), kept.dtype, kept._version)
        if key not in self._moved:
            copy = torch.empty_like(kept, device="cpu", pin_memory=torch.cuda.is_available())
            copy.copy_(kept, non_blocking=True)
            self._moved[key] = (weakref.ref(storage, lambda _: self._moved.pop(key)), copy)
        return kept.device, self._moved[key][1]


def _back(moved: tuple[torch.device | None, Tensor]) -> Tensor:
    device, value = moved
    return value if device is None else value.to(device, non_blocking=True)
