"""What methods on a fixed set of examples share: everything between their examples and their losses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from tk.contracts import Batch, Example, Figures, Loss, Pass, Reduce, Role, Rows, Session, Source, Step
from tk_tensor.collate import Tensors
from tk_tensor.objective import Objective


class Offline:
    """Base of methods whose objective is a mixture of losses on one forward a role.

    A method adds `encode`, `collate`, and where need be its roles and metrics.
    """

    def __init__(self, losses: Mapping[str, tuple[float, Loss]], units: Collection[str]) -> None:
        self.objective = Objective(dict(losses), units)
        self.scope: Literal["row", "window"] = self.objective.scope

    def roles(self) -> Sequence[Role]:
        return (Role("policy"),)

    def source(self, data: Source, session: Session) -> Source:
        return data

    def evaluate(self, examples: Sequence[Example], session: Session) -> list[Figures] | None:
        return None

    def passes(self, batch: Batch) -> Sequence[Pass]:
        return self.objective.passes()

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        return Step(self.objective.terms(outputs, batch.fields, reduce))

    def batch(self, rows: Sequence[Sequence[Example]], made: tuple[Tensors, Tensors, int, int]) -> Batch:
        """A batch of collated rows: (inputs, fields, samples, tokens), with the examples' normalisers."""
        inputs, fields, samples, tokens = made
        weights = {name: sum(e.weights[name] for row in rows for e in row) for name in self.objective.losses}
        return Batch(inputs, fields, weights, samples, tokens)
