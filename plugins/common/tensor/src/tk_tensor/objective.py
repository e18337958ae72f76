"""The losses of a run as named terms of its objective: what every method with losses shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from tk.contracts import Loss, Pass, Reduce, Rows, Stat, Term
from tk.errors import UsageError


@dataclass(frozen=True)
class Objective:
    """Weighted losses: what they want, what they are counted by, and their sums.

    losses: name -> (weight, loss). units: those that the method's batches have.
    Raises UsageError where there is no loss, where one counts by another unit, or where two want one statistic of one
    role at different temperatures.
    """

    losses: Mapping[str, tuple[float, Loss]]
    units: Collection[str]

    def __post_init__(self) -> None:
        if not self.losses:
            raise UsageError("losses: none is chosen; see `tk losses list`.")
        for name, (_, loss) in self.losses.items():
            if loss.unit not in self.units:
                raise UsageError(f"losses.{name}: counts by {loss.unit}, and this method by {' or '.join(self.units)}.")
        wants = self.wants
        if len({w.key for w in wants}) < len(wants):
            raise UsageError(f"losses: {', '.join(self.losses)} want one statistic at different temperatures.")

    @property
    def wants(self) -> tuple[Stat, ...]:
        return tuple(dict.fromkeys(stat for _, loss in self.losses.values() for stat in loss.wants))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles whose statistics are wanted."""
        return tuple(dict.fromkeys(stat.role for stat in self.wants))

    @property
    def scope(self) -> Literal["row", "window"]:
        scopes = {getattr(loss, "scope", "row") for _, loss in self.losses.values()}
        return "window" if "window" in scopes else "row"

    def weights(self, counts: Mapping[str, float]) -> dict[str, float]:
        """What an example adds to each term's normaliser; `counts`: how many of each unit it has."""
        return {name: counts[loss.unit] for name, (_, loss) in self.losses.items()}

    def passes(self) -> tuple[Pass, ...]:
        """One forward a role, with gradient for the policy."""
        return tuple(
            Pass(tuple(stat for stat in self.wants if stat.role == role), role, grad=role == "policy")
            for role in self.roles
        )

    def stats(self, outputs: Mapping[str, Rows]) -> Rows:
        """What the passes gave, by the keys of the statistics."""
        return {stat.key: outputs[stat.role][stat.name] for stat in self.wants}

    def terms(
        self, outputs: Mapping[str, Rows], fields: Rows, reduce: Reduce, *, of_unit: Mapping[str, Rows] | None = None
    ) -> dict[str, Term]:
        """A term a loss. of_unit: fields for the losses of a unit that are others than `fields`."""
        stats = self.stats(outputs)
        found = {}
        for name, (weight, loss) in self.losses.items():
            values = loss(stats, (of_unit or {}).get(loss.unit, fields), reduce)
            found[name] = Term(values.sum(), weight, values.detach())
        return found
