"""Options of the family `qwen-vl`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class QwenVLOptions:
    """How large pictures and how long videos are to the model. A token stands for a square of two by two patches (28 or 32 pixels wide)."""

    min_pixels: Annotated[int | None, doc("Smaller pictures are made larger; the checkpoint's unless given.", ge=1)] = (
        None
    )
    max_pixels: Annotated[int | None, doc("Larger pictures are made smaller; the checkpoint's unless given.", ge=1)] = (
        None
    )
    fps: Annotated[float, doc("Frames a second that are taken of a video.", gt=0)] = 2.0
    max_frames: Annotated[int | None, doc("Most frames of a video; the checkpoint's unless given.", ge=2)] = None
