"""Prompts, and the answers that were generated to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tk.sample import Sample
from tk_tensor.branches import Tree


@dataclass(frozen=True)
class Prompt:
    """A conversation up to where the assistant is to speak: its tokens, and the row that it is of."""

    ids: Sequence[int]
    sample: Sample


@dataclass
class Answer:
    """A generated answer.

    ids: its tokens. trained: whether they are (not where it was cut off and such are masked, nor of fillers).
    logps: of the sampled distribution, as the engine gave them. old, reference: log-probs [tokens] before the first update.
    rewards: by name, None where one does not apply. reward: their weighted sum, less the divergence where it is taken off.
    """

    ids: Sequence[int]
    trained: bool = True
    truncated: bool = False
    text: str = ""
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float = 0.0
    advantage: float = 0.0
    old: Sequence[float] = ()
    reference: Sequence[float] = ()


@dataclass
class Group:
    """The answers to one prompt. origin: of its row. question: the prompt's last message, for people."""

    prompt: Sequence[int]
    answers: list[Answer]
    origin: str = ""
    question: str = ""

    @property
    def tree(self) -> Tree:
        """The prompt once, and each answer as an ending of its own."""
        branches = [
            (np.asarray(a.ids, dtype=np.int32), np.full(len(a.ids), float(a.trained), dtype=np.float32))
            for a in self.answers
        ]
        return Tree(np.asarray(self.prompt, dtype=np.int32), branches)

    @property
    def teaches(self) -> bool:
        """Whether its answers have different rewards."""
        return len({answer.reward for answer in self.answers}) > 1

    def plain(self) -> dict[str, Any]:
        """JSON-able, for the cursor."""
        found = asdict(self)
        found["prompt"] = [int(i) for i in self.prompt]
        return found

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Group:
        return cls(**{**plain, "answers": [Answer(**answer) for answer in plain["answers"]]})


Micro = list[Group]
"""The groups of one forward pass; none: a filler."""
