"""Options of the schedules. Ratios are of the peak learning rate; a warm-up below 1 is a fraction of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc

Warmup = Annotated[float, doc("Optimizer steps of linear warm-up from 0; below 1, a fraction of the run.", ge=0)]
Floor = Annotated[float, doc("Learning rate at the end, as a ratio of the peak.", ge=0, le=1)]


@dataclass(frozen=True)
class ConstantOptions:
    """A constant learning rate."""

    warmup: Warmup = 0.0


@dataclass(frozen=True)
class LinearOptions:
    """A linear decay."""

    warmup: Warmup = 0.03
    min_ratio: Floor = 0.0


@dataclass(frozen=True)
class CosineOptions:
    """A cosine decay."""

    warmup: Warmup = 0.03
    min_ratio: Floor = 0.0


@dataclass(frozen=True)
class PolynomialOptions:
    """A polynomial decay."""

    warmup: Warmup = 0.03
    min_ratio: Floor = 0.0
    power: Annotated[float, doc("Exponent of the part of the run that remains; 1 is linear.", gt=0)] = 2.0


@dataclass(frozen=True)
class WarmupStableDecayOptions:
    """Warm-up, plateau, decay."""

    warmup: Warmup = 0.03
    min_ratio: Floor = 0.0
    decay_ratio: Annotated[float, doc("Part of the run, at its end, over which the rate decays.", ge=0, le=1)] = 0.1
    decay: Annotated[Literal["linear", "cosine", "1-sqrt"], doc("Shape of the decay.")] = "1-sqrt"
