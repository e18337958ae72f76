"""Options of the callback `loss-spike`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class LossSpikeOptions:
    """Options of `loss-spike`."""

    factor: Annotated[float, doc("A loss above this many times the recent median is a spike.", gt=1)] = 3.0
    window: Annotated[
        int, doc("Steps that the median is taken over; nothing is judged before they are full.", ge=1)
    ] = 20
    patience: Annotated[int, doc("Spikes in a row that are let pass.", ge=0)] = 2
