"""Options of the optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class AdamWOptions:
    """AdamW."""

    lr: Annotated[float, doc("Learning rate at the peak of the schedule.", gt=0)] = 1e-4
    beta1: Annotated[float, doc("Decay of the running mean of gradients.", ge=0, lt=1)] = 0.9
    beta2: Annotated[float, doc("Decay of the running mean of squared gradients.", ge=0, lt=1)] = 0.999
    eps: Annotated[float, doc("Added to the denominator.", gt=0)] = 1e-8
    weight_decay: Annotated[float, doc("Decoupled weight decay.", ge=0)] = 0.0


@dataclass(frozen=True)
class SgdOptions:
    """Stochastic gradient descent."""

    lr: Annotated[float, doc("Learning rate at the peak of the schedule.", gt=0)] = 1e-2
    momentum: Annotated[float, doc("Decay of the running sum of gradients.", ge=0, lt=1)] = 0.0
    nesterov: Annotated[bool, doc("Look ahead by one momentum step; needs momentum.")] = False
    weight_decay: Annotated[float, doc("L2 penalty.", ge=0)] = 0.0


@dataclass(frozen=True)
class AdafactorOptions:
    """Adafactor with a learning rate relative to the scale of each parameter."""

    lr: Annotated[float, doc("Learning rate, relative to the root mean square of each parameter.", gt=0)] = 1e-2
    beta2_decay: Annotated[float, doc("Exponent of the decay of squared gradients over the steps.", le=0)] = -0.8
    eps: Annotated[float, doc("Least root mean square that a parameter counts with.", gt=0)] = 1e-3
    clip_threshold: Annotated[float, doc("Updates with a larger root mean square are scaled down to it.", ge=1)] = 1.0
    weight_decay: Annotated[float, doc("Decoupled weight decay.", ge=0)] = 0.0
