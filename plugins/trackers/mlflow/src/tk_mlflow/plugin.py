"""Specs of the tracker `mlflow`."""

from collections.abc import Iterator

from tk import TrackerSpec, hookimpl


@hookimpl
def tk_trackers() -> Iterator[TrackerSpec]:
    yield TrackerSpec(
        name="mlflow",
        target="tk_mlflow.tracker:Mlflow",
        config="tk_mlflow.options:MlflowOptions",
        summary="MLflow: a server, a database or a folder.",
        extra="tk-plugin-mlflow[mlflow]",
        needs=("module:mlflow",),
        elsewhere=("python",),
    )
