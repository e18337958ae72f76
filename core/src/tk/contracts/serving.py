"""A model offered to clients over a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tk.contracts.models import Head

if TYPE_CHECKING:
    from tk.compose import Plan


@runtime_checkable
class Serving(Protocol):
    """A server with a loaded model. url: where it is reached. model: what clients call the model."""

    url: str
    model: str

    def run(self) -> None:
        """Answer until the process is asked to end (SIGTERM, SIGINT); what is on its way is answered first."""
        ...

    def start(self) -> None:
        """Answer in the background."""
        ...

    def close(self) -> None:
        """Answer what is on its way, and end."""
        ...

    def __enter__(self) -> Serving: ...
    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Server(Protocol):
    """Built as `target([options])`."""

    def open(self, plan: Plan, run: Path | None, head: Head) -> Serving:
        """Take the address, and load the plan's model with a head, or what `run` has trained of it.

        Raises UsageError where the address cannot be had.
        """
        ...
