"""Options of the loss `discopop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class DiscopopOptions:
    """Options of `discopop`."""

    beta: Annotated[float, doc("Rewards are β · log-ratio of policy and reference.", gt=0)] = 0.1
    tau: Annotated[float, doc("Width of the passage from one loss to the other, in rewards.", gt=0)] = 0.05
