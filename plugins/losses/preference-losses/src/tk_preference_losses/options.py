"""Options of the losses on preference pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc

Beta = Annotated[float, doc("How strongly the policy is held to the reference: rewards are β · log-ratio.", gt=0)]


@dataclass(frozen=True)
class SigmoidOptions:
    """Options of `sigmoid`."""

    beta: Beta = 0.1
    label_smoothing: Annotated[
        float, doc("Probability that a pair's labels are the wrong way round (conservative DPO).", ge=0, lt=0.5)
    ] = 0.0


@dataclass(frozen=True)
class IpoOptions:
    """Options of `ipo`."""

    beta: Annotated[float, doc("Regularisation τ: the margin aimed at is 1 / (2β) a token.", gt=0)] = 0.1


@dataclass(frozen=True)
class HingeOptions:
    """Options of `hinge`."""

    beta: Beta = 0.1


@dataclass(frozen=True)
class BcoPairOptions:
    """Options of `bco-pair`."""

    beta: Beta = 0.1
