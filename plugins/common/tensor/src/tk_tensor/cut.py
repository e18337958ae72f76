"""Encodings as examples of a permitted length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tk.contracts import Encoding, Limit
from tk.errors import DataError, UsageError
from tk_tensor.tokens import CutMedium, Tokens


def cut(encoding: Encoding, limit: Limit, origin: str) -> list[Tokens]:
    """The tokens of an encoding within the limit: one example, several where it is split, none where it is dropped.

    Raises DataError where it is too long and the limit does not say what to do, where no token of it is trained, and
    where a medium's tokens would be cut.
    """
    tokens = Tokens.of(encoding)
    if not tokens.trained:
        raise DataError(f"{origin}: no token is trained: the row needs an answer, or text of two tokens or more.")
    parts = _within(tokens, limit, origin)
    trained = [_example(part) for part in parts if part.trained]
    if parts and not trained:
        raise DataError(
            f"{origin}: cut from {len(tokens)} to {limit.max_length} tokens, no trained token is left. "
            "Raise data.max_length, cut the other side with data.truncation, or set it to drop."
        )
    return trained


def shortened(encoding: Encoding, limit: Limit, origin: str) -> Tokens | None:
    """The tokens of a whole sequence within the limit, none of them trained; None where it is dropped.

    Raises DataError where it is too long and the limit does not say what to do, UsageError where it is to be split.
    """
    if limit.truncation == "split":
        raise UsageError("data.truncation: this method reads whole sequences, which are not split.")
    parts = _within(Tokens.untrained(encoding.ids, encoding.media), limit, origin)
    return parts[0] if parts else None


def _within(tokens: Tokens, limit: Limit, origin: str) -> Sequence[Tokens]:
    if limit.max_length is None or len(tokens) <= limit.max_length:
        return [tokens]
    try:
        return CUTS[limit.truncation](tokens, limit.max_length, origin)
    except CutMedium as error:
        raise DataError(
            f"{origin}: {len(tokens)} tokens, and {error} at data.max_length {limit.max_length}. "
            "Raise it, make media smaller, or set data.truncation to drop."
        ) from error


def _example(tokens: Tokens) -> Tokens:
    """As an example: nothing predicts its first token."""
    weights = tokens.weights.copy()
    weights[0] = 0.0
    return replace(tokens, weights=weights)


def _error(tokens: Tokens, most: int, origin: str) -> list[Tokens]:
    raise DataError(
        f"{origin}: {len(tokens)} tokens, longer than data.max_length {most}. "
        "Raise data.max_length, or set data.truncation to drop, left, right or split."
    )


def _split(tokens: Tokens, most: int, origin: str) -> list[Tokens]:
    """Blocks that share one token, so that every token but the very first is predicted exactly once."""
    if most < 2:
        raise UsageError("data.max_length: blocks of one token predict nothing; give 2 or more.")
    starts = range(0, len(tokens) - 1, most - 1)
    return [tokens[s : s + most] for s in starts]


CUTS: Mapping[str, Callable[[Tokens, int, str], Sequence[Tokens]]] = {
    "error": _error,
    "drop": lambda tokens, most, origin: [],
    "left": lambda tokens, most, origin: [tokens[-most:]],
    "right": lambda tokens, most, origin: [tokens[:most]],
    "split": _split,
}
"""What becomes of a longer example; left and right name the side whose tokens are taken away."""
