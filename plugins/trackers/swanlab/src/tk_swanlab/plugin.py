"""Specs of the tracker `swanlab`."""

from collections.abc import Iterator

from tk import TrackerSpec, hookimpl


@hookimpl
def tk_trackers() -> Iterator[TrackerSpec]:
    yield TrackerSpec(
        name="swanlab",
        target="tk_swanlab.tracker:Swanlab",
        config="tk_swanlab.options:SwanlabOptions",
        summary="SwanLab, online or in files to be sent later.",
        extra="tk-plugin-swanlab[swanlab]",
        needs=("module:swanlab",),
        elsewhere=("python",),
    )
