"""The tracker `mlflow`."""

from __future__ import annotations

from pathlib import Path

from tk_mlflow.options import MlflowOptions
from tk_tracking.tracker import Library, Tracking


class Mlflow(Tracking):
    """A run of MLflow, in the experiment that `project` names; one that is resumed goes on under its id."""

    def __init__(self, options: MlflowOptions, folder: Path) -> None:
        library = Library(
            name="mlflow",
            sink=Path(__file__).with_name("sink.py"),
            environment={"MLFLOW_DISABLE_TELEMETRY": "true"},  # what it would send of its own use is nobody's choice
            mend="Is the store right (--trackers.mlflow.uri)?",
        )
        super().__init__(options, folder, library)
