"""Samples with a rejected answer -> the prompt's tokens, and those of each answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tk.contracts import Encoding, Limit, Template
from tk.errors import DataError, UsageError
from tk.sample import Message, Sample
from tk_tensor.branches import Tree

Values = Mapping[str, Any]


def encoded_pairs(samples: Sequence[Sample], template: Template, limit: Limit) -> Iterator[tuple[int, Values, float]]:
    """Length, values (none where the limit drops the pair) and trained tokens of the chosen answer, of each sample.

    Raises DataError with the sample's origin: no rejected answer, two equal ones, one without a trained token, or a pair
    that is too long.
    """
    for sample in samples:
        if not sample.rejected:
            raise DataError(f"{sample.origin}: no rejected answer: this method trains on pairs (chosen, rejected).")
    prompts = [_untrained(sample.messages[: sample.shared]) for sample in samples]
    chosen = [replace(s, messages=p + s.messages[s.shared :]) for s, p in zip(samples, prompts, strict=True)]
    rejected = [replace(s, messages=p + s.rejected) for s, p in zip(samples, prompts, strict=True)]
    for sample, better, worse in zip(samples, template.encode(chosen), template.encode(rejected), strict=True):
        yield _values(better, worse, limit, sample.origin)


def tree_of(values: Values) -> Tree:
    """The pair as two sequences that begin alike: chosen, rejected."""
    return Tree(values["prompt"], [(values[side], values[f"{side}_weights"]) for side in ("chosen", "rejected")])


def _untrained(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(replace(message, loss=0.0) for message in messages)


def _values(better: Encoding, worse: Encoding, limit: Limit, origin: str) -> tuple[int, Values, float]:
    if better.media or worse.media:
        raise DataError(
            f"{origin}: holds {', '.join({**better.media, **worse.media})}, and this method trains on text."
        )
    sides = [(np.asarray(e.ids, np.int32), np.asarray(e.weights, np.float32)) for e in (better, worse)]
    for (_, weights), name in zip(sides, ("chosen", "rejected"), strict=True):
        if not weights[1:].any():
            raise DataError(f"{origin}: no token of the {name} answer is trained: it is empty.")
    if np.array_equal(sides[0][0], sides[1][0]):
        raise DataError(f"{origin}: chosen and rejected are the same.")
    shared = _shared(sides)
    prompt, sides = sides[0][0][:shared], [(ids[shared:], weights[shared:]) for ids, weights in sides]
    cut = _cut(prompt, sides, limit, origin)
    if cut is None:
        return 0, {}, 0.0
    prompt, ((chosen, chosen_weights), (rejected, rejected_weights)) = cut
    values = {
        "prompt": prompt,
        "chosen": chosen,
        "chosen_weights": chosen_weights,
        "rejected": rejected,
        "rejected_weights": rejected_weights,
    }
    if not len(prompt):  # nothing predicts a first token
        chosen_weights[:1] = rejected_weights[:1] = 0.0
    return len(prompt) + len(chosen) + len(rejected), values, float(chosen_weights.sum(dtype=np.float64))


def _shared(sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """Leading tokens that are the same in both and trained in neither."""
    (a, v), (b, w) = sides
    most = min(int(np.argmax(v > 0)), int(np.argmax(w > 0)))
    differ = np.flatnonzero(a[:most] != b[:most])
    return int(differ[0]) if len(differ) else most


def _cut(
    prompt: np.ndarray, sides: list[tuple[np.ndarray, np.ndarray]], limit: Limit, origin: str
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]] | None:
    """Prompt and answers so that the longer sequence is within the limit; None where the pair is dropped.

    left: tokens are taken off the prompt's start; right: off the answers' ends.
    """
    most = limit.max_length
    length = len(prompt) + max(len(ids) for ids, _ in sides)
    if most is None or length <= most:
        return prompt, sides
    if limit.truncation == "drop":
        return None
    if limit.truncation == "left" and length - most < len(prompt):
        return prompt[length - most :], sides
    if limit.truncation == "right" and len(prompt) < most:
        kept = [(ids[: most - len(prompt)], weights[: most - len(prompt)]) for ids, weights in sides]
        if all(weights.any() for _, weights in kept) and not np.array_equal(kept[0][0], kept[1][0]):
            return prompt, kept
        raise DataError(f"{origin}: cut to {most} tokens, the answers are the same or empty. Raise data.max_length.")
    if limit.truncation == "split":
        raise UsageError("data.truncation: a pair cannot be split; use error, drop, left or right.")
    raise DataError(
        f"{origin}: {length} tokens ({len(prompt)} of them the prompt), longer than data.max_length {most}. "
        "Raise data.max_length, or set data.truncation to drop, left (off the prompt) or right (off the answers)."
    )
