"""Options of the losses on scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class BradleyTerryOptions:
    """Options of `bradley-terry`."""

    centring: Annotated[
        float, doc("Factor on the squared sum of a pair's scores, which keeps them around zero (0.01 is usual).", ge=0)
    ] = 0.0


@dataclass(frozen=True)
class CrossEntropyOptions:
    """Options of `cross-entropy`."""

    label_smoothing: Annotated[
        float, doc("Share of the label's probability that is spread evenly over the classes.", ge=0, lt=1)
    ] = 0.0
