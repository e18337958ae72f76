"""A score of answers, trained on pairs of a better and a worse one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from tk.contracts import Batch, Example, Head, Layout, Limit, Loss, Reduce, Role, Rows, Step, Template
from tk.errors import DataError
from tk.sample import Sample
from tk_tensor.branches import collate_trees
from tk_tensor.offline import Offline
from tk_tensor.pairs import paired
from tk_tensor.preferences import encoded_pairs, tree_of

HEAD = Head("score", ("reward",), "regression")


class Reward(Offline):
    """Losses on the scores of pairs."""

    def __init__(self, losses: Mapping[str, tuple[float, Loss]]) -> None:
        super().__init__(losses, ("pair",))

    def roles(self) -> Sequence[Role]:
        return (Role("policy", head=HEAD),)

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        weights = self.objective.weights({"pair": 1.0})
        return [
            [pair.example(weights, sample.origin, margin=[_margin(sample)])] if pair else []
            for sample, pair in zip(samples, encoded_pairs(samples, template, limit), strict=True)
        ]

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        batch = self.batch(rows, collate_trees([[tree_of(e) for e in row] for row in rows], layout))
        margin = torch.tensor([float(e.values["margin"][0]) for row in rows for e in row])
        return replace(batch, fields={**batch.fields, "margin": margin})

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        chosen, rejected = paired(outputs["policy"]["score"].detach()[:, 0])
        margin = chosen - rejected
        metrics = {
            "accuracy": (margin > 0).float(),
            "margin": margin,
            "chosen_score": chosen,
            "rejected_score": rejected,
        }
        terms = self.objective.terms(outputs, batch.fields, reduce)
        return Step(terms, {name: (values.sum(), float(len(values))) for name, values in metrics.items()})


def _margin(sample: Sample) -> float:
    """How much better the chosen answer is: the row's column `margin`."""
    value = sample.extras.get("margin", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{sample.origin}: margin must be a number, not {value!r}.")
    return float(value)
