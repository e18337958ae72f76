"""Options of the family `llava`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class LlavaOptions:
    """How long videos are to LLaVA-OneVision."""

    frames: Annotated[int, doc("Frames that are taken of each video, evenly.", ge=1)] = 32
