"""The losses of a run as named terms of its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tk.contracts import Batch, Loss, Pass, Reduce, Rows, Stat, Step, Term
from tk.errors import UsageError

COUNTS: Mapping[str, Callable[[np.ndarray], float]] = {
    "token": lambda weights: float(weights[1:].sum(dtype=np.float64)),
    "sequence": lambda weights: 1.0,
}
"""What one example adds to the normaliser of a loss, by the loss's unit; from its token weights."""


@dataclass(frozen=True)
class Objective:
    """Weighted losses on the policy: what they want, what they are counted by, and their sums.

    Raises UsageError where there is no loss, where one counts by something that single samples do not have, or where two
    want one statistic at different temperatures.
    """

    losses: Mapping[str, tuple[float, Loss]]

    def __post_init__(self) -> None:
        if not self.losses:
            raise UsageError("losses: none is chosen; for example --losses.causal-lm 1.0.")
        for name, (_, loss) in self.losses.items():
            if loss.unit not in COUNTS:
                raise UsageError(f"losses.{name}: counts by {loss.unit}, and this method has single samples only.")
        wants = self.wants
        if len({w.name for w in wants}) < len(wants):
            raise UsageError(f"losses: {', '.join(self.losses)} want one statistic at different temperatures.")

    @property
    def wants(self) -> tuple[Stat, ...]:
        return tuple(dict.fromkeys(stat for _, loss in self.losses.values() for stat in loss.wants))

    @property
    def scope(self) -> Literal["row", "window"]:
        scopes = {getattr(loss, "scope", "row") for _, loss in self.losses.values()}
        return "window" if "window" in scopes else "row"

    def counts(self, weights: np.ndarray) -> dict[str, float]:
        """What an example with these token weights adds to each term's normaliser."""
        return {name: COUNTS[loss.unit](weights) for name, (_, loss) in self.losses.items()}

    def passes(self) -> tuple[Pass, ...]:
        return (Pass(self.wants),)

    def step(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        """A term a loss."""
        stats = outputs["policy"]
        return Step(
            {
                name: Term(loss(stats, batch.fields, reduce).sum(), weight)
                for name, (weight, loss) in self.losses.items()
            }
        )
