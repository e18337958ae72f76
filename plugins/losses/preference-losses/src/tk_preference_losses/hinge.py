"""Hinge: a margin of one is asked for (SLiC-HF, arXiv 2305.10425; as a DPO loss in arXiv 2309.06657)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from tk.contracts import Reduce, Rows, Stat
from tk_preference_losses.options import HingeOptions
from tk_tensor.pairs import AGAINST_REFERENCE, log_ratios


@dataclass(frozen=True)
class Hinge:
    """max(0, 1 - β Δ), Δ the difference of the log-ratios."""

    options: HingeOptions = field(default_factory=HingeOptions)
    unit: ClassVar[Literal["pair"]] = "pair"
    wants: ClassVar[tuple[Stat, ...]] = AGAINST_REFERENCE

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        chosen, rejected = log_ratios(stats, fields, reduce)
        return (1 - self.options.beta * (chosen - rejected)).relu()
