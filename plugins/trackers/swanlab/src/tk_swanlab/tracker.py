"""The tracker `swanlab`."""

from __future__ import annotations

from pathlib import Path

from tk_swanlab.options import SwanlabOptions
from tk_tracking.tracker import Library, Tracking


class Swanlab(Tracking):
    """A run of SwanLab; one that is resumed goes on under its id."""

    def __init__(self, options: SwanlabOptions, folder: Path) -> None:
        library = Library(
            name="swanlab",
            sink=Path(__file__).with_name("sink.py"),
            mend="Log in (swanlab login, or SWANLAB_API_KEY), or send nothing: --trackers.swanlab.mode offline.",
        )
        super().__init__(options, folder, library)
