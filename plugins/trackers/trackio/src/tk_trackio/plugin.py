"""Specs of the tracker `trackio`."""

from collections.abc import Iterator

from tk import TrackerSpec, hookimpl


@hookimpl
def tk_trackers() -> Iterator[TrackerSpec]:
    yield TrackerSpec(
        name="trackio",
        target="tk_trackio.tracker:Trackio",
        config="tk_trackio.options:TrackioOptions",
        summary="Trackio: a local database, a server of it or a Space.",
        extra="tk-plugin-trackio[trackio]",
        needs=("module:trackio",),
        elsewhere=("python",),
    )
