"""The method `balanced-sft`: `sft` up to the batch, then two terms a loss with different normalisers.

Σ over losses of weight · ((1 - s) · Σ loss / Σ tokens + s · Σ (loss / tokens of the row) / rows), sums over the whole
optimizer step: both normalisers are in `weights`, so accumulation and the number of processes change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from acme_tk_balanced_sft.options import BalancedSftOptions
from tk.contracts import (
    Batch,
    Example,
    Figures,
    Layout,
    Limit,
    Loss,
    Pass,
    Reduce,
    Role,
    Rows,
    Session,
    Source,
    Step,
    Template,
    Term,
)
from tk.errors import UsageError
from tk.sample import Sample
from tk_sft.method import Sft
from tk_sft.options import SftOptions

BY_ANSWER = "by-answer"


class BalancedSft:
    """A Method (tk.contracts). Any losses on tokens can be combined. Raises UsageError for a loss of another unit."""

    scope: Literal["row", "window"] = "row"

    def __init__(self, options: BalancedSftOptions, losses: Mapping[str, tuple[float, Loss]]) -> None:
        for name, (_, loss) in losses.items():
            if loss.unit != "token" or getattr(loss, "scope", "row") != "row":
                raise UsageError(
                    f"losses.{name}: balanced-sft takes losses on tokens; use the method sft for this one."
                )
        self.options = options
        self.losses = dict(losses)
        self._sft = Sft(SftOptions(options.train_on), losses)

    def roles(self) -> Sequence[Role]:
        return self._sft.roles()

    def source(self, data: Source, session: Session) -> Source:
        return data

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        found = self._sft.encode(samples, template, limit)
        return [[replace(e, weights={**e.weights, **self._answers(1.0)}) for e in examples] for examples in found]

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        batch = self._sft.collate(rows, layout)
        return replace(batch, weights={**batch.weights, **self._answers(float(batch.rows))})

    def evaluate(self, examples: Sequence[Example], session: Session) -> list[Figures] | None:
        return None

    def passes(self, batch: Batch) -> Sequence[Pass]:
        return self._sft.passes(batch)

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        share, terms = self.options.by_answer, {}
        tokens = reduce(batch.fields["token_weights"])
        tokens = tokens.clamp_min(torch.finfo(tokens.dtype).tiny)  # a filler row has none: 0, not nan
        for name, (weight, loss) in self.losses.items():
            values = loss(outputs["policy"], batch.fields, reduce)
            sums = {name: values.sum(), f"{name}/{BY_ANSWER}": (values / tokens).sum()}
            coefs = {name: weight * (1 - share), f"{name}/{BY_ANSWER}": weight * share}
            terms |= {key: Term(value, coefs[key]) for key, value in sums.items()}
        return Step(terms)

    def _answers(self, count: float) -> dict[str, float]:
        return {f"{name}/{BY_ANSWER}": count for name in self.losses}
