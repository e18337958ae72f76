"""IPO: a squared distance to a fixed margin (arXiv 2310.12036)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from tk.contracts import Reduce, Rows, Stat
from tk_preference_losses.options import IpoOptions
from tk_tensor.pairs import AGAINST_REFERENCE, log_ratios, token_counts


@dataclass(frozen=True)
class Ipo:
    """(Δ - 1 / (2β))², Δ the difference of the log-ratios a token, as in the results of the paper (eq. 17)."""

    options: IpoOptions = field(default_factory=IpoOptions)
    unit: ClassVar[Literal["pair"]] = "pair"
    wants: ClassVar[tuple[Stat, ...]] = AGAINST_REFERENCE

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        (chosen, rejected), (n, m) = log_ratios(stats, fields, reduce), token_counts(fields, reduce)
        return (chosen / n - rejected / m - 1 / (2 * self.options.beta)).square()
