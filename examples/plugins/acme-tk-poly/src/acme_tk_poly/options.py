"""Options of the loss `poly-1`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class Poly1Options:
    """Options of `poly-1`."""

    epsilon: Annotated[
        float, doc("Factor on 1 - p, the first term of cross entropy's series; 0 is cross entropy.", ge=-1)
    ] = 1.0
