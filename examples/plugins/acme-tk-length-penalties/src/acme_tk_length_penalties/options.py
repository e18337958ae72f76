"""Options of the length penalties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class OverlongOptions:
    """Options of `overlong`."""

    limit: Annotated[int, doc("Tokens up to which nothing is taken off.", ge=0)] = 256
    margin: Annotated[int, doc("Tokens beyond the limit over which the penalty grows to 1.", ge=1)] = 64
