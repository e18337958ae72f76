"""Specs of the tracker `tensorboard`."""

from collections.abc import Iterator

from tk import TrackerSpec, hookimpl


@hookimpl
def tk_trackers() -> Iterator[TrackerSpec]:
    yield TrackerSpec(
        name="tensorboard",
        target="tk_tensorboard.tracker:TensorBoard",
        config="tk_tensorboard.options:TensorBoardOptions",
        summary="Event files in the run's folder, for TensorBoard.",
    )
