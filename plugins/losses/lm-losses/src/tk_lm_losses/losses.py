"""Losses on next-token prediction: one value a sample, the weighted sum over its trained tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from tk.contracts import Reduce, Rows, Stat
from tk_lm_losses.options import CausalLmOptions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CausalLm:
    """Cross entropy of the next token: Σ w · ((1 - ε) · -log p(target) - ε · mean over the vocabulary of log p + z · lse²).

    Label smoothing ε as in `torch.nn.functional.cross_entropy`; z-loss as in PaLM (arXiv 2204.02311, §5).
    """

    options: CausalLmOptions = field(default_factory=CausalLmOptions)
    unit: ClassVar[Literal["token"]] = "token"
    scope: ClassVar[Literal["row"]] = "row"

    @property
    def wants(self) -> tuple[Stat, ...]:
        smooth = (Stat("mean_logps"),) if self.options.label_smoothing else ()
        z = (Stat("logsumexp"),) if self.options.z_loss else ()
        return (Stat("logps"), *smooth, *z)

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        epsilon, z = self.options.label_smoothing, self.options.z_loss
        loss = -stats["logps"]
        if epsilon:
            loss = (1 - epsilon) * loss - epsilon * stats["mean_logps"]
        if z:
            loss = loss + z * stats["logsumexp"].square()
        return reduce(fields["token_weights"] * loss)


@dataclass(frozen=True)
class Dft:
    """Dynamic Fine-Tuning (arXiv 2508.05629): Σ w · -p(target) · log p(target), with no gradient through p."""

    unit: ClassVar[Literal["token"]] = "token"
    scope: ClassVar[Literal["row"]] = "row"
    wants: ClassVar[tuple[Stat, ...]] = (Stat("logps"),)

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        logps = stats["logps"]
        return reduce(-fields["token_weights"] * logps.detach().exp() * logps)
