"""Encodings as examples of a permitted length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tk.contracts import Encoding, Limit
from tk.errors import DataError, UsageError

Tokens = tuple[np.ndarray, np.ndarray]
"""Ids (int32) and weights (float32) of one example; the weight of a first token is 0, since nothing predicts it."""


def cut(encoding: Encoding, limit: Limit, origin: str) -> list[Tokens]:
    """The tokens of an encoding within the limit: one example, several where it is split, none where it is dropped.

    Raises DataError where it is too long and the limit does not say what to do, or where no token of it is trained.
    """
    ids = np.asarray(encoding.ids, dtype=np.int32)
    weights = np.asarray(encoding.weights, dtype=np.float32)
    if not _trained(weights):
        raise DataError(f"{origin}: no token is trained: the row needs an answer, or text of two tokens or more.")
    if limit.max_length is None or len(ids) <= limit.max_length:
        return [_example(ids, weights)]
    parts = CUTS[limit.truncation](ids, weights, limit.max_length, origin)
    trained = [_example(*part) for part in parts if _trained(part[1])]
    if parts and not trained:
        raise DataError(
            f"{origin}: cut from {len(ids)} to {limit.max_length} tokens, no trained token is left. "
            "Raise data.max_length, cut the other side with data.truncation, or set it to drop."
        )
    return trained


def shortened(ids: Sequence[int], limit: Limit, origin: str) -> np.ndarray | None:
    """The tokens of a whole sequence within the limit; None where it is dropped.

    Raises DataError where it is too long and the limit does not say what to do, UsageError where it is to be split.
    """
    if limit.truncation == "split":
        raise UsageError("data.truncation: this method reads whole sequences, which are not split.")
    whole = np.asarray(ids, dtype=np.int32)
    if limit.max_length is None or len(whole) <= limit.max_length:
        return whole
    parts = CUTS[limit.truncation](whole, np.ones(len(whole), dtype=np.float32), limit.max_length, origin)
    return parts[0][0] if parts else None


def _trained(weights: np.ndarray) -> bool:
    return bool(weights[1:].any())


def _example(ids: np.ndarray, weights: np.ndarray) -> Tokens:
    weights = weights.copy()
    weights[0] = 0.0
    return ids, weights


def _error(ids: np.ndarray, weights: np.ndarray, most: int, origin: str) -> list[Tokens]:
    raise DataError(
        f"{origin}: {len(ids)} tokens, longer than data.max_length {most}. "
        "Raise data.max_length, or set data.truncation to drop, left, right or split."
    )


def _split(ids: np.ndarray, weights: np.ndarray, most: int, origin: str) -> list[Tokens]:
    """Blocks that share one token, so that every token but the very first is predicted exactly once."""
    if most < 2:
        raise UsageError("data.max_length: blocks of one token predict nothing; give 2 or more.")
    starts = range(0, len(ids) - 1, most - 1)
    return [(ids[s : s + most], weights[s : s + most]) for s in starts]


CUTS: Mapping[str, Callable[[np.ndarray, np.ndarray, int, str], Sequence[Tokens]]] = {
    "error": _error,
    "drop": lambda ids, weights, most, origin: [],
    "left": lambda ids, weights, most, origin: [(ids[-most:], weights[-most:])],
    "right": lambda ids, weights, most, origin: [(ids[:most], weights[:most])],
    "split": _split,
}
"""What becomes of a longer example; left and right name the side whose tokens are taken away."""
