"""The tracker `wandb`."""

from __future__ import annotations

from pathlib import Path

from tk_tracking.tracker import Library, Tracking
from tk_wandb.options import WandbOptions


class Wandb(Tracking):
    """A run of Weights & Biases; one that is resumed goes on under its id."""

    def __init__(self, options: WandbOptions, folder: Path) -> None:
        library = Library(
            name="wandb",
            sink=Path(__file__).with_name("sink.py"),
            environment={"WANDB_ERROR_REPORTING": "false"},  # its own errors are sent nowhere
            mend="Log in (wandb login, or WANDB_API_KEY), or send nothing: --trackers.wandb.mode offline.",
        )
        super().__init__(options, folder, library)
