"""Answers that were generated to a prompt, with what is known of each and of its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Figures, Medium
from tk_tensor.branches import Tree
from tk_tensor.tokens import Tokens


@dataclass
class Answer:
    """A generated answer.

    ids: its tokens. trained: whether they are. counted: whether it is one of those that means are taken over, as an answer
    is that is not trained on because it was cut off.
    rewards: by name, None where one does not apply. reward: what the method makes of their weighted sum, None where none
    applies.
    advantage: of the whole answer; the mean where each token has its own.
    figures: further numbers of the answer. tokens: numbers of its tokens (log-probs of the engine, old and reference ones, values …), by name.
    """

    ids: Sequence[int]
    trained: bool = True
    counted: bool = True
    truncated: bool = False
    text: str = ""
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float | None = 0.0
    advantage: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, Sequence[float]] = field(default_factory=dict)


@dataclass
class Group:
    """The answers to one prompt. origin: of its row. question: the prompt's last message, for people; media: of it."""

    prompt: Sequence[int]
    answers: list[Answer]
    origin: str = ""
    question: str = ""
    media: Sequence[Medium] = ()

    @property
    def tree(self) -> Tree:
        """The prompt once, and each answer as an ending of its own."""
        branches = [
            Tokens(np.asarray(a.ids, dtype=np.int32), np.full(len(a.ids), float(a.trained), dtype=np.float32))
            for a in self.answers
        ]
        return Tree(Tokens.untrained(self.prompt, self.media), branches)

    def plain(self) -> dict[str, Any]:
        """JSON-able, for the cursor."""
        found = asdict(self)
        found["prompt"] = [int(i) for i in self.prompt]
        return found

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Group:
        media = tuple(Medium(**{**medium, "size": tuple(medium["size"])}) for medium in plain.get("media", ()))
        return cls(**{**plain, "answers": [Answer(**answer) for answer in plain["answers"]], "media": media})


Micro = list[Group]
"""The groups of one forward pass; none: a filler."""

Planned = list[list[Micro]]
"""Micro-batches of each optimizer step that one rollout is for."""


def answers_of(groups: Sequence[Group]) -> list[Answer]:
    """The answers of some groups, in the order of a batch's samples."""
    return [answer for group in groups for answer in group.answers]


def figures_of(groups: Sequence[Group]) -> Figures:
    """Means over the answers: reward, length, how many were cut off, and each further number, over those that have it."""
    answers = answers_of(groups)
    found = {
        "reward": [answer.reward for answer in answers if answer.reward is not None],
        "answer_tokens": [float(len(answer.ids)) for answer in answers],
        "truncated": [float(answer.truncated) for answer in answers],
    }
    for answer in answers:
        for name, value in answer.figures.items():
            found.setdefault(name, []).append(value)
    return {name: (math.fsum(values), float(len(values))) for name, values in found.items()}


def token_field(groups: Sequence[Group], name: str) -> Tensor | None:
    """[N] numbers of the trained tokens, in the order of a batch's selected positions.

    None where nothing is trained, or an answer has no such numbers.
    """
    kept = [answer for answer in answers_of(groups) if answer.trained]
    if not kept or not all(answer.tokens.get(name) for answer in kept):
        return None
    return torch.tensor([value for answer in kept for value in answer.tokens[name]])
