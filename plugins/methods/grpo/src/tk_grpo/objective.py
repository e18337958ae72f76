"""The parts between a token's log-probability and the objective: ratio, clip, aggregation."""

from __future__ import annotations

import torch
from torch import Tensor

from tk.contracts import Reduce
from tk_grpo.options import ClipOptions


def token_ratio(log_ratio: Tensor, rows: Tensor, lengths: Tensor, reduce: Reduce) -> Tensor:
    """Each token's own."""
    return log_ratio


def sequence_ratio(log_ratio: Tensor, rows: Tensor, lengths: Tensor, reduce: Reduce) -> Tensor:
    """The mean over the answer's tokens, for all of them (GSPO, arXiv 2507.18071)."""
    return (reduce(log_ratio) / lengths.clamp(min=1)).index_select(0, rows)


def sequence_sum_ratio(log_ratio: Tensor, rows: Tensor, lengths: Tensor, reduce: Reduce) -> Tensor:
    """The sum over the answer's tokens, for all of them: the answer as one action (RLOO)."""
    return reduce(log_ratio).index_select(0, rows)


class Clip:
    """min(ρ A, clip(ρ, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347; clip-higher: DAPO, arXiv 2503.14476).

    With `most` the first ρ counts for no more than it (two-sided, arXiv 2505.07291).
    """

    def __init__(self, options: ClipOptions) -> None:
        self.low = options.low
        self.high = options.low if options.high is None else options.high
        self.most = options.most

    def __call__(self, ratio: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        inside = ratio.clamp(1 - self.low, 1 + self.high) * advantage
        free = (ratio if self.most is None else ratio.clamp(max=self.most)) * advantage
        clipped = ((ratio < 1 - self.low) & (advantage < 0)) | ((ratio > 1 + self.high) & (advantage > 0))
        return torch.minimum(free, inside), clipped.to(ratio.dtype)


def by_sequence(lengths: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The mean over an answer's tokens, then over answers (GRPO)."""
    return 1.0 / lengths.clamp(min=1), torch.ones_like(lengths)


def by_token(lengths: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The mean over all tokens of the step (DAPO)."""
    return torch.ones_like(lengths), lengths


def by_constant(lengths: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The sum over the most tokens that there could be (Dr. GRPO)."""
    return torch.ones_like(lengths), torch.full_like(lengths, float(limit))
