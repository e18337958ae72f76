"""The tracker `trackio`."""

from __future__ import annotations

from pathlib import Path

from tk_tracking.tracker import Library, Tracking
from tk_trackio.options import TrackioOptions


class Trackio(Tracking):
    """A run of Trackio; one that is resumed goes on under its name."""

    def __init__(self, options: TrackioOptions, folder: Path) -> None:
        # Where it sends is the config's to say: variables that the shell has would send what nobody chose.
        environment: dict[str, str | None] = {"TRACKIO_SPACE_ID": None, "TRACKIO_SERVER_URL": None}
        if options.dir:
            environment["TRACKIO_DIR"] = str(Path(options.dir).expanduser().absolute())
        library = Library(
            name="trackio",
            sink=Path(__file__).with_name("sink.py"),
            environment=environment,
            mend="Keep it on this machine by naming neither uri nor space.",
        )
        super().__init__(options, folder, library)
