"""Options of the strategy `pipeline`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class PipelineOptions:
    """Where the model is cut."""

    first_layers: Annotated[int | None, doc("Layers of the first process; half of them unless given.", ge=1)] = None
    timeout: Annotated[float, doc("Seconds that processes wait for one another before the run fails.", gt=0)] = 1800.0
