"""Pieces of token sequences with the media in them: cut, joined, and laid out without losing which tokens are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tk.contracts import Encoding, Example, Layout, Medium
from tk.errors import TkError


class CutMedium(ValueError):
    """A piece would hold a part of a medium's tokens."""


@dataclass(frozen=True)
class Tokens:
    """ids: int32 [L]. weights: of predicting each, float32 [L]. media: in their order, where they start in this piece."""

    ids: np.ndarray
    weights: np.ndarray
    media: tuple[Medium, ...] = ()

    @classmethod
    def of(cls, encoding: Encoding) -> Tokens:
        ids, weights = np.asarray(encoding.ids, np.int32), np.asarray(encoding.weights, np.float32)
        return cls(ids, weights, tuple(encoding.media))

    @classmethod
    def untrained(cls, ids: Sequence[int] | np.ndarray, media: Sequence[Medium] = ()) -> Tokens:
        return cls(np.asarray(ids, np.int32), np.zeros(len(ids), np.float32), tuple(media))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, span: slice) -> Tokens:
        """The piece of a span (of step 1). Raises CutMedium where it begins or ends within a medium's tokens."""
        start, stop, _ = span.indices(len(self))
        kept = []
        for medium in self.media:
            end = medium.start + medium.length
            if start <= medium.start and end <= stop:
                kept.append(replace(medium, start=medium.start - start))
            elif medium.start < stop and end > start:
                raise CutMedium(f"the {medium.length} tokens of one {medium.type} would be cut")
        return Tokens(self.ids[start:stop], self.weights[start:stop], tuple(kept))

    def __add__(self, other: Tokens) -> Tokens:
        moved = (replace(medium, start=medium.start + len(self)) for medium in other.media)
        ids, weights = (np.concatenate(pair) for pair in ((self.ids, other.ids), (self.weights, other.weights)))
        return Tokens(ids, weights, (*self.media, *moved))

    @property
    def trained(self) -> bool:
        """Whether any of them is; nothing predicts the first one."""
        return bool(self.weights[1:].any())

    def example(self, weights: dict[str, float], origin: str, **values: Any) -> Example:
        """An example of these tokens. weights: its normalisers. values: what else it holds."""
        return Example(len(self), {"ids": self.ids, "weights": self.weights, **values}, weights, origin, self.media)


def positions_of(ids: np.ndarray, media: Sequence[Medium], layout: Layout) -> np.ndarray:
    """[L] positions of a sequence, or [axes, L] where the model places media in more than one."""
    placed = layout.media.positions(ids, media) if layout.media is not None else None
    return np.arange(len(ids)) if placed is None else placed


def media_inputs(media: Sequence[Medium], layout: Layout) -> dict[str, Any]:
    """The model's inputs for a batch's media, with idle ones of the types that it does not hold and others may."""
    if layout.media is None:
        if media:
            raise TkError(f"{media[0].origin}: the model takes no {media[0].type}.")
        return {}
    found: dict[str, Any] = dict(layout.media.tensors(media)) if media else {}
    missing = layout.touch - {medium.type for medium in media}
    return found | ({"idle": {type: dict(layout.media.idle(type)) for type in sorted(missing)}} if missing else {})
