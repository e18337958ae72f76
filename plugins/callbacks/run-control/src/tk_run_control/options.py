"""Options of the callbacks that act on evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class EarlyStoppingOptions:
    """When a run has learnt what it can."""

    metric: Annotated[str, doc("Figure of the evaluation that is watched.", min_length=1)] = "loss"
    mode: Annotated[Mode, doc("Whether a smaller or a larger figure is better.")] = "min"
    patience: Annotated[int, doc("Evaluations without improvement after which the run ends.", ge=1)] = 3
    min_delta: Annotated[float, doc("A smaller change than this is no improvement.", ge=0)] = 0.0


@dataclass(frozen=True)
class BestCheckpointsOptions:
    """Which checkpoints are worth keeping."""

    metric: Annotated[str, doc("Figure of the evaluation that checkpoints are compared by.", min_length=1)] = "loss"
    mode: Annotated[Mode, doc("Whether a smaller or a larger figure is better.")] = "min"
    keep: Annotated[int, doc("Checkpoints that are kept, the best ones.", ge=1)] = 1


@dataclass(frozen=True)
class PlateauOptions:
    """When and how far the learning rate falls."""

    metric: Annotated[str, doc("Figure of the evaluation that is watched.", min_length=1)] = "loss"
    mode: Annotated[Mode, doc("Whether a smaller or a larger figure is better.")] = "min"
    factor: Annotated[float, doc("What the learning rate is multiplied by.", gt=0, lt=1)] = 0.5
    patience: Annotated[int, doc("Evaluations without improvement that are let pass.", ge=0)] = 2
    threshold: Annotated[float, doc("A smaller change than this is no improvement.", ge=0)] = 1e-4
    threshold_mode: Annotated[
        Literal["relative", "absolute"], doc("Whether the threshold is a fraction of the best figure or a difference.")
    ] = "relative"
    cooldown: Annotated[int, doc("Evaluations after a reduction that are not counted.", ge=0)] = 0
    min_scale: Annotated[float, doc("The reductions together multiply the rate by no less than this.", ge=0, lt=1)] = (
        0.0
    )
