"""How the callbacks read and compare the figures of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tk.errors import UsageError, nearest


def figure(metrics: Mapping[str, float], name: str, callback: str) -> float:
    """The figure of that name; a leading "eval/" may be written. Raises UsageError where there is none."""
    for key in (name, name.removeprefix("eval/"), f"eval/{name}"):
        if key in metrics:
            return float(metrics[key])
    has = ", ".join(sorted(metrics)) or "none"
    raise UsageError(
        f"callbacks.{callback}.metric: the evaluation has no figure {name!r} (it has: {has}).{nearest(name, metrics)}"
    )


def better(value: float, best: float | None, mode: str, delta: float = 0.0) -> bool:
    """Whether `value` beats `best` by more than `delta`. What is not finite beats nothing; the rest beats None."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best - delta if mode == "min" else value > best + delta
