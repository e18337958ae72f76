"""Advantages of answers from the rewards of their groups."""

from __future__ import annotations

import torch
from torch import Tensor

from tk_grpo.options import GroupOptions


class Group:
    """(reward - mean of the group) / standard deviation (GRPO, arXiv 2402.03300; unscaled: Dr. GRPO, arXiv 2503.20783)."""

    def __init__(self, options: GroupOptions) -> None:
        self.options = options

    def __call__(self, rewards: Tensor, lengths: Tensor) -> Tensor:
        centred = rewards - rewards.nanmean(1, keepdim=True)
        if self.options.scale == "none":
            return centred.nan_to_num(0.0)
        spread = _deviation(rewards if self.options.scale == "group" else rewards.reshape(1, -1))
        return (centred / (spread + self.options.epsilon)).nan_to_num(0.0)


def leave_one_out(rewards: Tensor, lengths: Tensor) -> Tensor:
    """reward - mean of the group's other answers (RLOO, arXiv 2402.14740)."""
    there = rewards.isnan().logical_not()
    others = there.sum(1, keepdim=True) - 1
    baseline = (rewards.nansum(1, keepdim=True) - rewards) / others.clamp(min=1)
    return torch.where(there & (others > 0), rewards - baseline, 0.0)


def _deviation(rewards: Tensor) -> Tensor:
    """[P, 1] standard deviations (n - 1) of what is not nan; 0 of fewer than two."""
    count = rewards.isnan().logical_not().sum(1, keepdim=True)
    squares = (rewards - rewards.nanmean(1, keepdim=True)).square().nansum(1, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()
