"""Beginnings that have been read before: their keys and values, the ones that were used last."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from tk_transformers.slots import Saved

LEAST = 16
"""Tokens from which on a beginning is worth copying."""


def common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length


@dataclass(frozen=True)
class _Kept:
    ids: np.ndarray
    adapter: str
    saved: Saved


class Prefixes:
    """limit: tokens that are kept in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._next = 0

    def wants(self, count: int) -> bool:
        """Whether a row of so many tokens would be kept."""
        return LEAST <= count <= self._limit

    def keep(self, ids: np.ndarray, adapter: str, saved: Saved) -> None:
        """Keep a beginning, in the place of those that it goes on from and of those that were used least."""
        for number, kept in list(self._kept.items()):
            if kept.adapter == adapter and common(kept.ids, ids) == len(kept.ids):
                del self._kept[number]
        self._kept[self._next] = _Kept(ids, adapter, saved)
        self._next += 1
        while sum(len(kept.ids) for kept in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)

    def longest(self, ids: np.ndarray, adapter: str) -> tuple[int, Saved]:
        """Tokens that some kept beginning, read with the same adapter, has in common with a sequence; and that beginning."""
        alike = ((common(kept.ids, ids), n) for n, kept in self._kept.items() if kept.adapter == adapter)
        count, best = max(alike, default=(0, -1))
        if not count:
            return 0, ()
        self._kept.move_to_end(best)
        return count, self._kept[best].saved

    def clear(self) -> None:
        self._kept.clear()
