"""The kind `formats`: its spec, and what a format is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tk.sample import Sample
from tk.specs import Spec


@dataclass(frozen=True, kw_only=True)
class FormatSpec(Spec):
    """A shape of rows. `columns`: sets of columns by which it is recognised; one whole set in a row suffices."""

    columns: tuple[tuple[str, ...], ...] = ()

    def recognises(self, columns: Mapping[str, Any]) -> bool:
        return any(all(name in columns for name in alternative) for alternative in self.columns)


@runtime_checkable
class Format(Protocol):
    """A shape of rows. Built as `target([options])`."""

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        """The row's meaning; columns that the format does not read become `extras`. The caller adds `origin`.

        Raises ValueError with the reason where the row has not this shape.
        """
        ...
