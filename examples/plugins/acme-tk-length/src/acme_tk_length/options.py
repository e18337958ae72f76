"""Options of the reward `length`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk import doc


@dataclass(frozen=True)
class LengthOptions:
    """Options of `length`."""

    budget: Annotated[int, doc("Length up to which a completion scores 1.", ge=0)] = 256
    slack: Annotated[int, doc("Length beyond the budget over which the score falls to 0.", ge=1)] = 64
    unit: Annotated[Literal["tokens", "words", "characters"], doc("What length is counted in.")] = "tokens"
