"""Options that every tracker with a library has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class TrackingOptions:
    """Where figures go, and how often."""

    project: Annotated[str, doc("Project that the run belongs to.")] = "tk"
    name: Annotated[str, doc("Name of the run; that of its folder unless given.")] = ""
    tags: Annotated[list[str], doc("Words to find the run by.")] = field(default_factory=list)
    every: Annotated[int, doc("Training steps between points; evaluations are all sent.", ge=1)] = 1
    python: Annotated[str, doc("Interpreter that has the library, where this one has not.")] = ""
    start_seconds: Annotated[int, doc("Longest time that the library may take to begin.", ge=1)] = 120
    finish_seconds: Annotated[int, doc("Longest time that it may take to send what is left.", ge=1)] = 300
