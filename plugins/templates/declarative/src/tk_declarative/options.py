"""Options of every declarative template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class ChatOptions:
    """What a user may change of a declarative format."""

    system: Annotated[
        str | None, doc("System message of conversations that have none; the format's own unless given, '' for none.")
    ] = None
