"""Log-probs that are told beside tokens: the likeliest of a place, and those of a prompt as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
import torch
from torch import Tensor

from tk.contracts import PromptLogps, Top


def likeliest(distribution: Tensor, counts: Sequence[int]) -> list[Top]:
    """So many of the likeliest tokens of each row of log-probs [n, V], of those that are possible at all."""
    if not any(counts):
        return [()] * len(counts)
    values, ids = (found.tolist() for found in distribution.topk(min(max(counts), distribution.shape[1])))
    return [
        tuple((token, value) for token, value in zip(ids[at][:count], values[at][:count], strict=True) if value > -inf)
        for at, count in enumerate(counts)
    ]


@dataclass
class Told:
    """Log-probs of a prompt's tokens [L] but for the first, as far as it has been read; shared by a request's completions.

    count: of the likeliest tokens in each place.
    """

    prompt: np.ndarray
    count: int
    logps: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return len(self.logps) == len(self.prompt) - 1

    def add(self, read: int, logits: Tensor) -> None:
        """Logits [T, V] after the tokens from number `read` on: what they say of tokens that are not told yet."""
        done = len(self.logps)
        targets = torch.from_numpy(self.prompt[done + 1 : read + 1 + len(logits)]).to(logits.device)
        distribution = logits[done - read :][: len(targets)].float().log_softmax(-1)
        self.logps += distribution.gather(1, targets[:, None])[:, 0].tolist()
        if self.count:
            self.top += likeliest(distribution, [self.count] * len(targets))

    def all(self) -> PromptLogps:
        return PromptLogps(tuple(self.logps), tuple(self.top))
