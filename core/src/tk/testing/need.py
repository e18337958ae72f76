"""How checks fail: an AssertionError with one sentence, whatever `python -O` or assertion rewriting do."""

from __future__ import annotations

import math


def need(condition: object, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def is_finite(value: object) -> bool:
    """Whether it is a number (no truth value) that is neither infinite nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
