"""Preference pairs: two answers to one prompt, held against a reference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tk.contracts import Batch, Example, Layout, Limit, Loss, Reduce, Role, Rows, Step, Template
from tk.sample import Sample
from tk_dpo.options import DpoOptions
from tk_tensor.branches import collate_trees
from tk_tensor.offline import Offline
from tk_tensor.pairs import paired
from tk_tensor.preferences import encoded_pairs, tree_of

ROUNDING = 1e-6
"""Of the log-probs of a pair: by less, one answer does not gain more than the other."""


class Dpo(Offline):
    """Losses on pairs, and on the tokens of the chosen answers."""

    def __init__(self, options: DpoOptions, losses: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__(losses, ("pair", "token"))
        self.options = options

    def roles(self) -> Sequence[Role]:
        policy = Role("policy")
        if "reference" not in self.objective.roles:
            return (policy,)
        other, once = self.options.reference, self.options.precompute_reference
        if other:
            return (policy, Role("reference", trainable=False, checkpoint=other, precomputed=once))
        return (policy, Role("reference", trainable=False, of="policy", adapter_off=True, precomputed=once))

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        return [
            [pair.example(self.objective.weights({"pair": 1.0, "token": pair.trained}), sample.origin)] if pair else []
            for sample, pair in zip(samples, encoded_pairs(samples, template, limit), strict=True)
        ]

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        return self.batch(rows, collate_trees([[tree_of(e) for e in row] for row in rows], layout))

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        chosen_only = {**batch.fields, "token_weights": batch.fields["token_weights"] * (batch.fields["rows"] % 2 == 0)}
        terms = self.objective.terms(outputs, batch.fields, reduce, of_unit={"token": chosen_only})
        return Step(terms, self._metrics(self.objective.stats(outputs), batch, reduce))

    def _metrics(self, stats: Rows, batch: Batch, reduce: Reduce) -> dict[str, tuple[Tensor, float]]:
        """How often the chosen answer gained more on the reference than the rejected one (as much: half), by how much in
        nats, and log-probs."""
        weights = batch.fields["token_weights"]
        chosen, rejected = paired(reduce(stats["logps"].detach() * weights))
        gains = [chosen, rejected]
        if "reference.logps" in stats:
            before = paired(reduce(stats["reference.logps"] * weights))
            gains = [after - reference for after, reference in zip(gains, before, strict=True)]
        margin = gains[0] - gains[1]
        more = torch.where(margin.abs() > ROUNDING * (chosen.abs() + rejected.abs()), margin.sign(), 0.0)
        found = {
            "accuracy": (more + 1) / 2,
            "margin": margin,
            "chosen_logps": chosen,
            "rejected_logps": rejected,
        }
        return {name: (values.sum(), float(len(values))) for name, values in found.items()}
