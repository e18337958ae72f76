"""The loss `discopop`: found by a language model that was asked for preference losses (arXiv 2406.08414, equation 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from acme_tk_discopop.options import DiscopopOptions
from tk.contracts import Reduce, Rows, Stat
from tk_tensor.pairs import AGAINST_REFERENCE, log_ratios


@dataclass(frozen=True)
class Discopop:
    """-(1 - m) log σ(ρ) + m exp(-ρ), with ρ = β · (difference of the log-ratios) and m = σ(ρ / τ), differentiated too."""

    options: DiscopopOptions = field(default_factory=DiscopopOptions)
    unit: ClassVar[Literal["pair"]] = "pair"
    wants: ClassVar[tuple[Stat, ...]] = AGAINST_REFERENCE

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        chosen, rejected = log_ratios(stats, fields, reduce)
        margin = self.options.beta * (chosen - rejected)
        mixed = (margin / self.options.tau).sigmoid()
        return -(1 - mixed) * logsigmoid(margin) + mixed * (-margin).exp()
