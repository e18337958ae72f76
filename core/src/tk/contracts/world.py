"""Where a process stands among those of its run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """This process among the run's: rank in 0 … size-1, and its device ("cpu", "cuda:0")."""

    rank: int
    size: int
    device: str
