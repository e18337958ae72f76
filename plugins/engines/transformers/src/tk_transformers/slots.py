"""A cache in which each row has a place of its own, so that rows come and go without touching the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

COLUMNS = 64
"""A cache grows by so many columns at least."""

Saved = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of a row's first tokens, [heads, L, size] a layer."""


@dataclass
class Reach:
    """What a forward touches.

    places: of the rows, a slice or [n]. index: the same, [n]. starts: [n], the column of each row's first new token.
    width: columns that are looked at, those of the new tokens included.
    """

    places: slice | Tensor
    index: Tensor
    starts: Tensor
    width: int

    def columns(self, length: int) -> Tensor:
        """[n, L] columns of `length` new tokens a row."""
        return self.starts[:, None] + torch.arange(length, device=self.starts.device)


@dataclass
class _Room:
    """What the layers of a cache have room for, and what the next forward touches.

    Layers know it and not the cache: else these would hold one another, and their memory, until cycles are looked for.
    """

    places: int = 0
    columns: int = 0
    reach: Reach | None = None

    @property
    def touched(self) -> Reach:
        assert self.reach is not None, "it is set before a forward"
        return self.reach

    def grown(self, held: Tensor) -> Tensor:
        """Zeros where nothing is written yet: what is masked must be finite."""
        if held.shape[0] >= self.places and held.shape[2] >= self.columns:
            return held
        more = held.new_zeros(self.places, held.shape[1], self.columns, held.shape[3])
        more[: held.shape[0], :, : held.shape[2]] = held
        return more


class _Layer(CacheLayerMixin):
    """Keys and values [places, heads, columns, size]: a row's token stands in the column of its number."""

    is_sliding = False

    def __init__(self, room: _Room) -> None:
        super().__init__()
        self._room = room

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (s.new_zeros(0, s.shape[1], 0, s.shape[3]) for s in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens of the rows in reach, and give what these rows may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.grow()
        reach = self._room.touched
        where = (reach.index[:, None], slice(None), reach.columns(key_states.shape[2]))
        self.keys[where], self.values[where] = key_states.transpose(1, 2), value_states.transpose(1, 2)
        return self.keys[reach.places, :, : reach.width], self.values[reach.places, :, : reach.width]

    def grow(self) -> None:
        self.keys, self.values = self._room.grown(self.keys), self._room.grown(self.values)

    def get_seq_length(self) -> int:
        return self._room.touched.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._room.touched.width, 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Places for rows, that grow in number and in length as they are reached for."""

    def __init__(self, layers: int) -> None:
        self._room = _Room()
        super().__init__(layers=[_Layer(self._room) for _ in range(layers)])

    def touch(self, reach: Reach) -> None:
        """What the next forward reads and writes."""
        self._room.reach = reach

    @staticmethod
    def layers_of(config: Any) -> int | None:
        """How many layers of a model keep keys and values by token; None where some keep anything else."""
        layers = DynamicCache(config=config).layers
        plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
        return len(layers) if layers and plain else None

    def reserve(self, places: int, columns: int) -> None:
        """Have room for rows and tokens from the next forward on."""
        room = self._room
        if places > room.places:
            room.places = max(places, room.places * 3 // 2)
        if columns > room.columns:
            room.columns = -(-max(columns, room.columns * 3 // 2) // COLUMNS) * COLUMNS

    def copy(self, source: int, target: int, count: int) -> None:
        """A row's first tokens to another place."""
        for held in self._held():
            held[target, :, :count] = held[source, :, :count]

    def swap(self, a: int, b: int, count: int) -> None:
        """The first `count` tokens of two rows for one another."""
        for held in self._held():
            held[[a, b], :, :count] = held[[b, a], :, :count]

    def saved(self, place: int, count: int) -> Saved:
        """A row's first tokens, in memory of their own."""
        return [
            (layer.keys[place, :, :count].clone(), layer.values[place, :, :count].clone()) for layer in self._full()
        ]

    def restore(self, place: int, saved: Saved, count: int) -> None:
        """The first tokens of what was saved, into a place."""
        for layer, (keys, values) in zip(self.layers, saved, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.grow()
            layer.keys[place, :, :count], layer.values[place, :, :count] = keys[:, :count], values[:, :count]

    def _full(self) -> list[Any]:
        return [layer for layer in self.layers if layer.is_initialized]

    def _held(self) -> list[Tensor]:
        for layer in self._full():
            layer.grow()
        return [held for layer in self._full() for held in (layer.keys, layer.values)]
