"""From rewards and values to what is trained on: rewards of tokens, advantages, returns. In double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tk.contracts import Session

EPSILON = 1e-8
"""Added to a variance that is divided by."""


@dataclass(frozen=True)
class Moments:
    """Of numbers over all ranks. variance: with n - 1; 0 of fewer than two."""

    count: int
    mean: float
    variance: float

    def whitened(self, value: float, *, shift: bool = True) -> float:
        """(value - mean) / deviation; without `shift` the mean is kept."""
        scaled = (value - self.mean) / math.sqrt(self.variance + EPSILON)
        return scaled if shift else scaled + self.mean


def moments(session: Session, values: Sequence[float]) -> Moments:
    """Of every rank's values together."""
    told = session.gather([len(values), math.fsum(values)])
    count = sum(number for number, _ in told)
    mean = math.fsum(part for _, part in told) / max(1, count)
    squares = math.fsum(session.gather(math.fsum((value - mean) ** 2 for value in values)))
    return Moments(count, mean, squares / max(1, count - 1))


def divergences(
    policy: Sequence[float], reference: Sequence[float], estimator: Literal["k1", "k3"] = "k1"
) -> list[float]:
    """What each token adds to KL(policy, reference), from the log-probs [T] of sampled tokens.

    k1: log π/π_ref. k3: π_ref/π - 1 - log π_ref/π, which is never negative.
    """
    apart = [b - a for a, b in zip(policy, reference, strict=True)]
    return [-x if estimator == "k1" else math.expm1(x) - x for x in apart]


def generalised_advantages(
    rewards: Sequence[float], values: Sequence[float], gamma: float, gae_lambda: float
) -> list[float]:
    """GAE (arXiv 1506.02438) of an answer [T]: Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} - V_t, and 0 after the end.

    values: what was expected before each token.
    """
    found, after, next_value = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        after = reward + gamma * next_value - value + gamma * gae_lambda * after
        next_value = value
        found.append(after)
    return found[::-1]
