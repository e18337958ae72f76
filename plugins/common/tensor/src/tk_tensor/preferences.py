"""Samples with a rejected answer -> the prompt's tokens, and those of each answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from tk.contracts import Example, Limit, Medium, Template
from tk.errors import DataError, UsageError
from tk.sample import Message, Sample
from tk_tensor.branches import Tree
from tk_tensor.tokens import CutMedium, Tokens


@dataclass(frozen=True)
class Pair:
    """A prompt, and the two answers to it."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens

    @property
    def trained(self) -> float:
        """Trained tokens of the chosen answer, by weight."""
        return float(self.chosen.weights.sum(dtype=np.float64))

    def example(self, weights: dict[str, float], origin: str, **values: Any) -> Example:
        """The three behind one another, and where they end; the prompt stands before each answer where it is not shared."""
        whole = self.prompt + self.chosen + self.rejected
        ends = np.cumsum([len(self.prompt), len(self.chosen)]).astype(np.int32)
        return replace(whole.example(weights, origin, ends=ends, **values), repeated=len(self.prompt))


def encoded_pairs(samples: Sequence[Sample], template: Template, limit: Limit) -> Iterator[Pair | None]:
    """The pair of each sample; None where the limit drops it.

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
        yield _pair(Tokens.of(better), Tokens.of(worse), limit, sample.origin)


def tree_of(example: Example) -> Tree:
    """The pair as two sequences that begin alike: chosen, rejected."""
    whole = Tokens(example.values["ids"], example.values["weights"], tuple(example.media))
    first, second = map(int, example.values["ends"])
    return Tree(whole[:first], [whole[first:second], whole[second:]])


def _untrained(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(replace(message, loss=0.0) for message in messages)


def _pair(better: Tokens, worse: Tokens, limit: Limit, origin: str) -> Pair | None:
    for tokens, name in ((better, "chosen"), (worse, "rejected")):
        if not tokens.trained:
            raise DataError(f"{origin}: no token of the {name} answer is trained: it is empty.")
    if np.array_equal(better.ids, worse.ids) and _seen(better.media) == _seen(worse.media):
        raise DataError(f"{origin}: chosen and rejected are the same.")
    shared = _shared(better, worse)
    try:
        pair = _cut(Pair(better[:shared], better[shared:], worse[shared:]), limit, origin)
    except CutMedium as error:
        raise DataError(f"{origin}: {error} at data.max_length {limit.max_length}: raise it.") from error
    if pair is not None and not len(pair.prompt):  # nothing predicts a first token
        pair.chosen.weights[:1] = pair.rejected.weights[:1] = 0.0
    return pair


def _shared(better: Tokens, worse: Tokens) -> int:
    """Leading tokens that are the same in both, stand for the same media, and are trained in neither."""
    most = min(int(np.argmax(tokens.weights > 0)) for tokens in (better, worse))
    differ = np.flatnonzero(better.ids[:most] != worse.ids[:most])
    most = int(differ[0]) if len(differ) else most
    for a, b in zip_longest(_seen(better.media), _seen(worse.media)):
        start = min(medium[0] for medium in (a, b) if medium is not None)
        if start < most and a != b:
            return start
    return most


def _seen(media: Sequence[Medium]) -> list[tuple[int, int, str, str]]:
    """How each medium is seen: some models see one in fewer tokens among several than alone."""
    return [(medium.start, medium.length, medium.type, medium.source) for medium in media]


def _cut(pair: Pair, limit: Limit, origin: str) -> Pair | None:
    """The pair with the longer sequence within the limit; None where it is dropped.

    left: tokens are taken off the prompt's start; right: off the answers' ends.
    """
    most, prompt, answers = limit.max_length, pair.prompt, (pair.chosen, pair.rejected)
    length = len(prompt) + max(map(len, answers))
    if most is None or length <= most:
        return pair
    if limit.truncation == "drop":
        return None
    if limit.truncation == "left" and length - most < len(prompt):
        return replace(pair, prompt=prompt[length - most :])
    if limit.truncation == "right" and len(prompt) < most:
        chosen, rejected = (answer[: most - len(prompt)] for answer in answers)
        if chosen.weights.any() and rejected.weights.any() and not np.array_equal(chosen.ids, rejected.ids):
            return Pair(prompt, chosen, rejected)
        raise DataError(f"{origin}: cut to {most} tokens, the answers are the same or empty. Raise data.max_length.")
    if limit.truncation == "split":
        raise UsageError("data.truncation: a pair cannot be split; use error, drop, left or right.")
    raise DataError(
        f"{origin}: {length} tokens ({len(prompt)} of them the prompt), longer than data.max_length {most}. "
        "Raise data.max_length, or set data.truncation to drop, left (off the prompt) or right (off the answers)."
    )
