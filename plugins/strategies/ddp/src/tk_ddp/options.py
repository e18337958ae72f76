"""Options of the strategy `ddp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class DdpOptions:
    """How processes exchange gradients."""

    timeout: Annotated[float, doc("Seconds that processes wait for one another before the run fails.", gt=0)] = 1800.0
    find_unused_parameters: Annotated[
        bool, doc("Allow steps that leave some trained parameters without a gradient; costs a walk of the graph.")
    ] = False
    bucket_mb: Annotated[int, doc("Mebibytes of gradients exchanged at a time.", ge=1)] = 25
