"""Schedules: optimizer step (0-based) and length of the run -> factor on the learning rate.

Each is a linear warm-up from 0 followed by a shape over the rest of the run; the first step of a warm-up has rate 0,
as in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tk_schedules.options import (
    ConstantOptions,
    CosineOptions,
    LinearOptions,
    PolynomialOptions,
    WarmupStableDecayOptions,
)

SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}
"""Part of a decay that is done (0 to 1) -> part of the rate above the floor that is left."""


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of a warm-up that is given in steps, or below 1 as a fraction of the run.

    A fraction is rounded down: the first step of a warm-up changes nothing, and a short run has none to lose.
    """
    return min(total, math.floor(warmup * total + 1e-9) if warmup < 1 else round(warmup))


def _decayed(shape: Callable[[float], float], floor: float, done: float, length: float) -> float:
    progress = min(1.0, done / max(1, length))
    return floor + (1 - floor) * shape(progress)


class Constant:
    """Built as `Constant(options)`."""

    def __init__(self, options: ConstantOptions) -> None:
        self._options = options

    def __call__(self, step: int, total: int) -> float:
        warmup = warmup_steps(self._options.warmup, total)
        return step / warmup if step < warmup else 1.0


class _Decay:
    """A decay over all of the run after the warm-up."""

    def __init__(self, options: LinearOptions | CosineOptions | PolynomialOptions, shape: Callable[[float], float]):
        self._options = options
        self._shape = shape

    def __call__(self, step: int, total: int) -> float:
        warmup = warmup_steps(self._options.warmup, total)
        if step < warmup:
            return step / warmup
        return _decayed(self._shape, self._options.min_ratio, step - warmup, total - warmup)


def linear(options: LinearOptions) -> Callable[[int, int], float]:
    """A straight line down."""
    return _Decay(options, SHAPES["linear"])


def cosine(options: CosineOptions) -> Callable[[int, int], float]:
    """Half a cosine down."""
    return _Decay(options, SHAPES["cosine"])


def polynomial(options: PolynomialOptions) -> Callable[[int, int], float]:
    """(1 - progress) ** power."""
    return _Decay(options, lambda progress: (1 - progress) ** options.power)


class WarmupStableDecay:
    """Built as `WarmupStableDecay(options)`."""

    def __init__(self, options: WarmupStableDecayOptions) -> None:
        self._options = options

    def __call__(self, step: int, total: int) -> float:
        warmup = warmup_steps(self._options.warmup, total)
        decay = min(total - warmup, math.ceil(self._options.decay_ratio * total))
        if step < warmup:
            return step / warmup
        if step < total - decay:
            return 1.0
        return _decayed(SHAPES[self._options.decay], self._options.min_ratio, step - (total - decay), decay)
