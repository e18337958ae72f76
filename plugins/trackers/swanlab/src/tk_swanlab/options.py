"""Options of the tracker `swanlab`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc
from tk_tracking.options import TrackingOptions


@dataclass(frozen=True)
class SwanlabOptions(TrackingOptions):
    """Which project, and whether it is sent now."""

    workspace: Annotated[str, doc("User or organisation; the account's own unless given.")] = ""
    group: Annotated[str, doc("Group of runs that it belongs to.")] = ""
    mode: Annotated[
        Literal["online", "offline"], doc("Send while it runs, or write files for `swanlab sync` and send nothing.")
    ] = "online"
    uri: Annotated[str, doc("Server of one's own; the public one unless given.")] = ""
    system: Annotated[bool, doc("Send the load of the machine and its hardware too.")] = False
