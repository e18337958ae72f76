"""Options of the tracker `trackio`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc
from tk_tracking.options import TrackingOptions


@dataclass(frozen=True)
class TrackioOptions(TrackingOptions):
    """Which project, and where it is kept: on this machine unless a server or a Space is named."""

    group: Annotated[str, doc("Group of runs that it belongs to.")] = ""
    dir: Annotated[str, doc("Folder of the local databases; Trackio's own unless given.")] = ""
    uri: Annotated[str, doc("Server of one's own (http://…); its write token is read from TRACKIO_WRITE_TOKEN.")] = ""
    space: Annotated[str, doc("Space of the Hugging Face Hub (user/name).")] = ""
