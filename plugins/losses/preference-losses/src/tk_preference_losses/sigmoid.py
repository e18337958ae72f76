"""DPO: the pair's margin through a sigmoid (arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from tk.contracts import Reduce, Rows, Stat
from tk_preference_losses.options import SigmoidOptions
from tk_tensor.pairs import AGAINST_REFERENCE, log_ratios


@dataclass(frozen=True)
class Sigmoid:
    """-(1 - ε) log σ(β Δ) - ε log σ(-β Δ), Δ the difference of the log-ratios; ε as in conservative DPO."""

    options: SigmoidOptions = field(default_factory=SigmoidOptions)
    unit: ClassVar[Literal["pair"]] = "pair"
    wants: ClassVar[tuple[Stat, ...]] = AGAINST_REFERENCE

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        chosen, rejected = log_ratios(stats, fields, reduce)
        margin, epsilon = self.options.beta * (chosen - rejected), self.options.label_smoothing
        return -(1 - epsilon) * logsigmoid(margin) - epsilon * logsigmoid(-margin)
