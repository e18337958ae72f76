"""The loss `poly-1`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from acme_tk_poly.options import Poly1Options
from tk.contracts import Reduce, Rows, Stat

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Poly1:
    """Σ w · (-log p + ε · (1 - p)), p the probability of the target (PolyLoss, arXiv 2204.12511, equation 6)."""

    options: Poly1Options = field(default_factory=Poly1Options)
    unit: ClassVar[Literal["token"]] = "token"
    scope: ClassVar[Literal["row"]] = "row"
    wants: ClassVar[tuple[Stat, ...]] = (Stat("logps"),)

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        logps = stats["logps"]
        return reduce(fields["token_weights"] * (self.options.epsilon * (1 - logps.exp()) - logps))
