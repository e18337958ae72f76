"""Options of the tracker `tensorboard`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class TensorBoardOptions:
    """Where event files go, and how often."""

    dir: Annotated[str | None, doc("Folder of the event files, instead of the run's tensorboard/.")] = None
    every: Annotated[int, doc("Training steps between points; evaluations are all written.", ge=1)] = 1
    flush_seconds: Annotated[int, doc("Seconds after which points are on disk at the latest.", ge=1)] = 30
