"""Options of the tuner `bitfit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tk import doc


@dataclass(frozen=True)
class BitFitOptions:
    """Options of `bitfit`."""

    only: Annotated[
        list[str], doc("Train the biases of modules with these names (q_proj, up_proj …) only; all unless given.")
    ] = field(default_factory=list)
