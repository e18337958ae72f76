"""The order of training as plain functions of numbers: who sees which rows when, without a tensor.

An epoch is an order of examples; packing puts them into rows; a window is `batch_size` consecutive rows, one optimizer
step; within a window the rows are dealt to ranks and micro-batches. Only the dealing knows how many ranks there are.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]

PACK_CHUNK = 4096
"""Examples that are packed together. Larger chunks fill rows better and mix an epoch's order more widely."""


@dataclass(frozen=True)
class Rows:
    """Rows of examples: row i holds `flat[starts[i]:starts[i + 1]]`."""

    flat: Index
    starts: Index

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Index:
        return self.flat[self.starts[row] : self.starts[row + 1]]


def shuffled(n: int, *seeds: int) -> Index:
    """A permutation of 0 … n-1 that the seeds alone decide.

    Sorts raw PCG64 output, whose stream numpy keeps unchanged between versions (Generator.permutation's it does not).
    """
    bits = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool = True) -> Index:
    """The order of n examples in an epoch."""
    return shuffled(n, seed, epoch) if shuffle else np.arange(n, dtype=np.int64)


def single(order: Index) -> Rows:
    """One example a row."""
    return Rows(order, np.arange(len(order) + 1, dtype=np.int64))


def pack(lengths: Sequence[int] | Index, order: Index, max_length: int, chunk: int = PACK_CHUNK) -> Rows:
    """Rows of examples whose lengths sum to at most `max_length`: best-fit decreasing over chunks of `order`.

    Raises ValueError where one example is longer than a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(order) and int(sizes[order].max()) > max_length:
        longest = int(order[int(sizes[order].argmax())])
        raise ValueError(f"example {longest} has {sizes[longest]} tokens, more than a row of {max_length}")
    rows: list[list[int]] = []
    for start in range(0, len(order), chunk):
        rows += _best_fit(sizes[order[start : start + chunk]].tolist(), max_length, start)
    flat = np.fromiter((place for row in rows for place in row), dtype=np.int64, count=len(order))
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    return Rows(order[flat], starts)


def _best_fit(sizes: list[int], room: int, offset: int) -> list[list[int]]:
    """Places (from `offset`) grouped into rows, longest first, each into the fullest row that has room.

    Rows are ordered by their first place, and places within a row, so that an epoch's order shows through.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for place in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        found = bisect_left(free, (sizes[place], -1))
        if found == len(free):
            left, row = room, len(rows)
            rows.append([])
        else:
            left, row = free.pop(found)
        rows[row].append(offset + place)
        insort(free, (left - sizes[place], row))
    return sorted(sorted(row) for row in rows)


def window_count(rows: int, batch_size: int) -> int:
    """Optimizer steps of an epoch: the last window may be short, and no window mixes epochs."""
    return -(-rows // batch_size)


def deal(lengths: Sequence[int], micro_batch_size: int, world: int) -> list[list[list[int]]]:
    """The rows of a window for each rank, in micro-batches: `dealt[rank][batch]` lists positions in the window.

    Rows are dealt longest first, to and fro over the ranks, so that ranks get about equal numbers of tokens and rows of
    like length share a micro-batch. Every rank has the same number of micro-batches; empty ones are to be filled.
    """
    hands: list[list[int]] = [[] for _ in range(world)]
    for turn, place in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        lap, seat = divmod(turn, world)
        hands[world - 1 - seat if lap % 2 else seat].append(place)
    count = max(1, math.ceil(max(map(len, hands)) / micro_batch_size)) if lengths else 0
    return [[hand[i * len(hand) // count : (i + 1) * len(hand) // count] for i in range(count)] for hand in hands]


def filler_row(lengths: Sequence[int]) -> int:
    """The position of the row that fills empty micro-batches: the shortest, as the cheapest."""
    return min(range(len(lengths)), key=lambda i: (lengths[i], i))
