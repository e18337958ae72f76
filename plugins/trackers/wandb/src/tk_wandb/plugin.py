"""Specs of the tracker `wandb`."""

from collections.abc import Iterator

from tk import TrackerSpec, hookimpl


@hookimpl
def tk_trackers() -> Iterator[TrackerSpec]:
    yield TrackerSpec(
        name="wandb",
        target="tk_wandb.tracker:Wandb",
        config="tk_wandb.options:WandbOptions",
        summary="Weights & Biases, online or in files to be sent later.",
        extra="tk-plugin-wandb[wandb]",
        needs=("module:wandb",),
        elsewhere=("python",),
    )
