"""Options of the launcher `local`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class LocalOptions:
    """Processes on this machine; a single one is the command's own."""

    processes: Annotated[int, doc("Processes of the run; with GPUs, one for each.", ge=1)] = 1
    grace: Annotated[
        float, doc("Seconds that the others have to end by themselves when a process has failed, twice over.", gt=0)
    ] = 8.0
