"""Entry points of plugins, whatever else is installed: a file of them that cannot be read hides no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Any

from tk.errors import TkError

GROUP = "tk"
KERNEL = "tk-kernel"
PREFIX = "tk-plugin-"


class Unreadable(EntryPoint):
    """Stands for those of a plugin whose entry_points.txt cannot be read; loading it says so."""

    def load(self) -> Any:
        raise TkError(vars(self)["why"])


def every() -> Iterable[EntryPoint]:
    """Of all plugins, in the order of the path."""
    try:
        return entry_points(group=GROUP)
    except Exception:  # noqa: BLE001 - whatever the library makes of one broken file, of anybody's package
        return _one_by_one()


def of(found: Distribution) -> Sequence[EntryPoint]:
    """Of one distribution, which is a plugin where it has any."""
    try:
        return tuple(found.entry_points.select(group=GROUP))
    except Exception as error:  # noqa: BLE001 - as above
        return (_unreadable(found, error),) if _ours(found) else ()


def _one_by_one() -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for found in distributions():
        name = _name(found)
        if name and name not in seen:
            seen.add(name)
            yield from of(found)


def _name(found: Distribution) -> str:
    """In the one form of all its spellings; "" where its metadata cannot be read either: it is nobody's plugin then."""
    from packaging.utils import canonicalize_name  # only where something is broken: it takes time to import

    with suppress(Exception):
        return str(canonicalize_name(found.metadata["Name"]))
    return ""


def _unreadable(found: Distribution, error: Exception) -> EntryPoint:
    told = " ".join(f"{type(error).__name__}: {error}".split())
    entry = Unreadable(found.name, "entry_points.txt", GROUP)
    vars(entry).update(dist=found, why=f"its entry_points.txt cannot be read ({told})")  # no other way changes one
    return entry


def _ours(found: Distribution) -> bool:
    """Whether it is a plugin by what else is known of it: one that has none of these signs belongs to others."""
    from packaging.utils import canonicalize_name

    name = _name(found)
    wanted = map(canonicalize_name, found.requires or ()) if name else ()
    return name.startswith(PREFIX) or any(line.startswith(KERNEL) for line in wanted)
