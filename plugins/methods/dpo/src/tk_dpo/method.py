"""Preference pairs: two answers to one prompt, held against a reference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from tk.contracts import (
    Batch,
    Example,
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
)
from tk.sample import Sample
from tk_dpo.options import DpoOptions
from tk_dpo.pairs import encoded, tree_of
from tk_tensor.branches import collate_trees
from tk_tensor.objective import Objective
from tk_tensor.pairs import paired


class Dpo:
    """Losses on pairs, and on the tokens of the chosen answers."""

    def __init__(self, options: DpoOptions, losses: Mapping[str, tuple[float, Loss]]) -> None:
        self.options = options
        self.objective = Objective(dict(losses), ("pair", "token"))
        self.scope: Literal["row", "window"] = self.objective.scope

    def roles(self) -> Sequence[Role]:
        policy = Role("policy")
        if "reference" not in self.objective.roles:
            return (policy,)
        if self.options.reference:
            return (policy, Role("reference", trainable=False, checkpoint=self.options.reference))
        return (policy, Role("reference", trainable=False, of="policy", adapter_off=True))

    def source(self, data: Source, session: Session) -> Source:
        return data

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        return [
            [Example(length, values, self.objective.weights({"pair": 1.0, "token": tokens}), sample.origin)]
            if values
            else []
            for sample, (length, values, tokens) in zip(samples, encoded(samples, template, limit), strict=True)
        ]

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        inputs, fields, samples, tokens = collate_trees([[tree_of(e.values) for e in row] for row in rows], layout)
        weights = {name: sum(e.weights[name] for row in rows for e in row) for name in self.objective.losses}
        return Batch(inputs, fields, weights, samples, tokens)

    def passes(self, batch: Batch) -> Sequence[Pass]:
        return self.objective.passes()

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        chosen_only = {**batch.fields, "token_weights": batch.fields["token_weights"] * (batch.fields["rows"] % 2 == 0)}
        terms = self.objective.terms(outputs, batch.fields, reduce, of_unit={"token": chosen_only})
        return Step(terms, self._metrics(self.objective.stats(outputs), batch, reduce))

    def _metrics(self, stats: Rows, batch: Batch, reduce: Reduce) -> dict[str, tuple[Tensor, float]]:
        """How often the chosen answer gained more on the reference than the rejected one, by how much, and log-probs."""
        weights = batch.fields["token_weights"]
        chosen, rejected = paired(reduce(stats["logps"].detach() * weights))
        gains = [chosen, rejected]
        if "reference.logps" in stats:
            before = paired(reduce(stats["reference.logps"] * weights))
            gains = [after - reference for after, reference in zip(gains, before, strict=True)]
        margin = gains[0] - gains[1]
        found = {"accuracy": (margin > 0).float(), "margin": margin, "chosen_logps": chosen, "rejected_logps": rejected}
        return {name: (values.sum(), float(len(values))) for name, values in found.items()}
