"""A run as it is imagined before it begins: answers as long as they may be, and processes that are all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tk.compose import Plan
from tk.contracts import Batch, Completion, Pass, Request, Rows, World
from tk.sample import Sample
from tk_torch.assemble import Parts
from tk_torch.settings import Configured

Score = Callable[[Batch, Sequence[Pass]], Mapping[str, Rows]]
"""Statistics of a batch, of which only the shapes are known."""


class Imagined(Configured):
    """The Session of a run whose models have shapes only. generates: whether it was asked for answers."""

    def __init__(self, plan: Plan, parts: Parts, world: World, score: Score) -> None:
        super().__init__(plan)
        self.world, self.template, self.layout = world, parts.template, parts.layout
        self._score = score
        self.generates = False

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """As many and as long as sampling allows."""
        self.generates |= bool(requests)
        (token,) = self.template.stop_ids()[:1] or (0,)
        return [
            [Completion((token,) * r.sampling.max_tokens, "", "stop", (0.0,) * r.sampling.max_tokens)] * r.sampling.n
            for r in requests
        ]

    def reward(self, samples: Sequence[Sample], completions: Sequence[Completion]) -> dict[str, Sequence[float | None]]:
        """Each answer another than the one before, so that something is learned."""
        return {name: [float(i % 2) for i in range(len(completions))] for name in self.rewards}

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.world.size

    def score(self, batches: Sequence[Batch], passes: Sequence[Pass]) -> list[Mapping[str, Rows]]:
        return [zeros(self._score(batch, passes)) for batch in batches]


def zeros(outputs: Mapping[str, Rows]) -> dict[str, dict[str, Tensor]]:
    """Numbers in the place of statistics that have shapes only."""
    return {
        key: {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in stats.items()}
        for key, stats in outputs.items()
    }


class Alike:
    """What an update asks of a Strategy, where every process does the same as this one."""

    def __init__(self, world: World) -> None:
        self.world = world

    def synchronise(self, module: object, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def gather(self, values: Tensor) -> list[Tensor]:
        return [values.detach().clone() for _ in range(self.world.size)]
