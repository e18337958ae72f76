"""What a length penalty is: its spec, with a field of the kind's own, and its contract. Free of everything heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tk import Spec


@dataclass(frozen=True, kw_only=True)
class LengthPenaltySpec(Spec):
    """A length penalty. `needs_group`: it compares answers to one prompt, so that a single one says nothing."""

    needs_group: bool = False


@runtime_checkable
class LengthPenalty(Protocol):
    """Built as `target([options])`."""

    def __call__(self, lengths: Sequence[int]) -> Sequence[float]:
        """A finite number for each answer to one prompt, from their lengths in tokens; smaller is worse."""
        ...
