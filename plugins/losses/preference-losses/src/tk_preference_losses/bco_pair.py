"""BCO on pairs: chosen and rejected are told apart by a binary classifier (arXiv 2404.04656)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from tk.contracts import Reduce, Rows, Stat
from tk_preference_losses.options import BcoPairOptions
from tk_tensor.pairs import AGAINST_REFERENCE, log_ratios


@dataclass(frozen=True)
class BcoPair:
    """-log σ(β · chosen) - log σ(-β · rejected), without the paper's running shift of the rewards."""

    options: BcoPairOptions = field(default_factory=BcoPairOptions)
    unit: ClassVar[Literal["pair"]] = "pair"
    wants: ClassVar[tuple[Stat, ...]] = AGAINST_REFERENCE

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        chosen, rejected = log_ratios(stats, fields, reduce)
        return -logsigmoid(self.options.beta * chosen) - logsigmoid(-self.options.beta * rejected)
