"""Specs of the callbacks that act on evaluations."""

from collections.abc import Iterator

from tk import CallbackSpec, hookimpl


@hookimpl
def tk_callbacks() -> Iterator[CallbackSpec]:
    yield CallbackSpec(
        name="early-stopping",
        target="tk_run_control.stopping:EarlyStopping",
        config="tk_run_control.options:EarlyStoppingOptions",
        summary="Ends the run when a metric has stopped improving.",
    )
    yield CallbackSpec(
        name="best-checkpoints",
        target="tk_run_control.best:BestCheckpoints",
        config="tk_run_control.options:BestCheckpointsOptions",
        summary="Keeps the checkpoints with the best evaluations.",
    )
    yield CallbackSpec(
        name="reduce-lr-on-plateau",
        target="tk_run_control.plateau:ReduceLrOnPlateau",
        config="tk_run_control.options:PlateauOptions",
        summary="Lowers the learning rate when a metric has stopped improving.",
    )
