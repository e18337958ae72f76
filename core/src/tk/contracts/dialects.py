"""Local files that are written for another framework."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Protocol, runtime_checkable

from tk.specs import Spec


@runtime_checkable
class Dialect(Protocol):
    """Reads local plugin files that are written for another framework. Built as `target([options])`, anew for each file."""

    def offer(self, name: str) -> ModuleType | None:
        """What `import name` gives to the file, for modules of `DialectSpec.imports`; None: what is installed.

        The file alone sees it. A module has its submodules as attributes.
        """
        ...

    def read(self, module: ModuleType) -> Iterable[tuple[str, Spec]]:
        """(kind, spec) of each component that the loaded file holds. Raises TkError for one that cannot be used."""
        ...
