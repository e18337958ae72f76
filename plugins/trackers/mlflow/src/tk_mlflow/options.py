"""Options of the tracker `mlflow`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc
from tk_tracking.options import TrackingOptions


@dataclass(frozen=True)
class MlflowOptions(TrackingOptions):
    """Which experiment (`project`) of which store."""

    uri: Annotated[
        str, doc("Store: http://…, sqlite:///FILE, a folder; MLFLOW_TRACKING_URI or MLflow's own choice unless given.")
    ] = ""
