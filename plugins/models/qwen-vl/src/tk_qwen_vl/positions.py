"""Multimodal rotary positions (Qwen2-VL, arXiv:2409.12191): a medium's tokens stand in time, height and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tk.contracts import Medium

Grid = tuple[int, int, int]
"""Tokens of a medium in time, height and width."""
Spread = tuple[np.ndarray, int]
"""[3, tokens] in time, height and width, from 0 on, and by how much positions go on behind them."""


def positions(ids: Sequence[int], media: Sequence[Medium], spread: Callable[[Medium], Spread]) -> np.ndarray:
    """[4, L]: the token's number, which packed rows are told apart by, and its time, height and width.

    Text goes on from the largest position before it.
    """
    axes = np.empty((3, len(ids)), dtype=np.int64)
    at = done = 0
    for medium in media:
        text = medium.start - done
        axes[:, done : medium.start] = at + np.arange(text)
        at += text
        done = medium.start + medium.length
        places, taken = spread(medium)
        axes[:, medium.start : done] = at + places
        at += taken
    axes[:, done:] = at + np.arange(len(ids) - done)
    return np.concatenate([np.arange(len(ids))[None], axes])


def block(grid: Grid, interval: float = 1.0) -> Spread:
    """A medium of height h and width w takes max(h, w) positions, however long; `interval`: between frames."""
    axes = np.indices(grid).reshape(3, -1)
    axes[0] = (axes[0].astype(np.float32) * np.float32(interval)).astype(np.int64)
    return axes, max(grid[1:])


def text(tokens: int) -> Spread:
    return np.tile(np.arange(tokens), (3, 1)), tokens


def behind(parts: Sequence[Spread]) -> Spread:
    """One behind another."""
    at, found = 0, []
    for places, taken in parts:
        found.append(at + places)
        at += taken
    return np.concatenate(found, axis=1), at
