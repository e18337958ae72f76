"""Multimodal rotary positions (Qwen2-VL, arXiv:2409.12191): a picture's tokens stand in time, height and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tk.contracts import Medium

Grid = tuple[int, int, int]
"""Tokens of a medium in time, height and width."""


def positions(ids: Sequence[int], media: Sequence[Medium], grid: Callable[[Medium], Grid]) -> np.ndarray:
    """[4, L]: the token's number, which packed rows are told apart by, and its time, height and width.

    Text goes on from the largest position before it; a medium of height h and width w takes max(h, w) of them.
    """
    axes = np.empty((3, len(ids)), dtype=np.int64)
    at = done = 0
    for medium in media:
        text = medium.start - done
        axes[:, done : medium.start] = at + np.arange(text)
        at += text
        time, height, width = grid(medium)
        done = medium.start + medium.length
        axes[:, medium.start : done] = at + np.indices((time, height, width)).reshape(3, -1)
        at += max(height, width)
    axes[:, done:] = at + np.arange(len(ids) - done)
    return np.concatenate([np.arange(len(ids))[None], axes])
