"""The optimal reward baseline of OPO (arXiv 2505.23585, equation 8)."""

from __future__ import annotations

import torch
from torch import Tensor


class Opo:
    """An Advantage (tk_grpo.contracts): reward - Σ length · reward / Σ length, over the group's answers with a reward."""

    def __call__(self, rewards: Tensor, lengths: Tensor) -> Tensor:
        weights = torch.where(rewards.isnan(), 0.0, lengths)
        baseline = (weights * rewards).nansum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return (rewards - baseline).nan_to_num(0.0)
