"""Installed distributions by their metadata alone, so that a plugin can be asked about however broken its code is.

A plugin is a distribution with an entry point in the group `tk`; a library is one that depends on the kernel and has
none. Both move together with the kernel.
"""

from __future__ import annotations

import csv
import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tk import entries
from tk.entries import GROUP, KERNEL
from tk.errors import TkError


def normal(name: str) -> str:
    """A distribution's name in the one form that all its spellings have."""
    return str(canonicalize_name(name))


def is_plugin(found: Distribution) -> bool:
    return bool(entries.of(found))


def requirements(found: Distribution) -> list[Requirement]:
    """What it depends on here: markers decided, extras left out, and what cannot be read (`unreadable`)."""
    return [r for r in _every(found) if r.marker is None or r.marker.evaluate({"extra": ""})]


def optional(found: Distribution) -> list[Requirement]:
    """What its extras bring."""
    return [r for r in _every(found) if r.marker is not None and "extra" in str(r.marker)]


def unreadable(found: Distribution) -> list[str]:
    """What is said of each of its requirements that is none by the rules of today, as old packages have them."""
    lines = [line for line in found.requires or () if _read(line) is None]
    return [f"its metadata names {line!r}, which is no requirement that can be read" for line in lines]


def _every(found: Distribution) -> list[Requirement]:
    return [read for line in found.requires or () if (read := _read(line)) is not None]


def _read(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def unmet(name: str) -> list[Requirement]:
    """What an installed distribution depends on and is not here, or in another version."""
    return Installed().unmet(name)


@dataclass(frozen=True)
class Source:
    """Where a distribution was installed from: "" for an index, else an address as installers take it.

    Of a repository it has the commit: git+https://…@…#subdirectory=…. editable: what runs is the code there.
    """

    url: str = ""
    editable: bool = False

    @property
    def path(self) -> str:
        """Of a folder or file of this machine, else ""."""
        url = urlparse(self.url)
        return unquote(url.path) if url.scheme == "file" else ""


def source(found: Distribution) -> Source:
    """What its installer has written of where it is from (packaging.python.org, direct_url.json)."""
    text = found.read_text("direct_url.json")
    if not text:
        return Source()
    written = json.loads(text)
    url, vcs, below = written["url"], written.get("vcs_info"), written.get("subdirectory")
    if vcs:
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return Source(f"{url}#subdirectory={below}" if below else url, bool(written.get("dir_info", {}).get("editable")))


def anew(found: Distribution) -> str:
    """The commands that install it anew, from where it came from: an index may have another package of its name."""
    name, origin = normal(found.metadata["Name"]), source(found)
    gone = f"tk plugins uninstall {name}"
    if origin.path:
        if not Path(origin.path).exists():
            return gone
        return f"{gone}, then tk plugins install {'-e ' if origin.editable else ''}{shlex.quote(origin.path)}"
    if origin.url:
        return f"{gone}, then pip install {shlex.quote(f'{name} @ {origin.url}')}"
    return f"{gone}, then tk plugins install {name}"


def stale(found: Distribution) -> str:
    """Why its metadata does not tell of what is there, in words; "" where it does."""
    origin = source(found)
    if origin.editable:
        return _moved_on(found, Path(origin.path))
    record = found.read_text("RECORD")
    rows = csv.reader(record.splitlines()) if record else ()
    files = [row[0] for row in rows if row and not row[0].endswith(".pyc")]
    gone = [name for name in files if not Path(str(found.locate_file(name))).exists()]
    return f"{len(gone)} of its {len(files)} files are gone (the first: {gone[0]})" if gone else ""


def _moved_on(found: Distribution, folder: Path) -> str:
    """What has changed in the folder of an editable install since."""
    if not folder.is_dir():
        return f"its folder {folder} is gone"
    file = folder / "pyproject.toml"
    try:
        project = project_of(folder)
    except TkError as error:
        return str(error).rstrip(".")
    declared = project.get("entry-points", {}).get(GROUP, {})
    known = {entry.name: entry.value for entry in entries.of(found)}
    if project and declared != known:
        return f"it is installed with other entry points than {file} has"
    return ""


def project_of(folder: Path) -> Mapping[str, Any]:
    """What a folder's pyproject.toml says of its package, {} where it has none. Raises TkError where it cannot be read."""
    file = folder / "pyproject.toml"
    try:
        found: Mapping[str, Any] = tomllib.loads(file.read_text("utf-8")).get("project", {}) if file.is_file() else {}
    except ValueError as error:  # no TOML, or no text
        raise TkError(f"{file} cannot be read: {error}.") from error
    return found


class Installed:
    """Every distribution on the path, read once."""

    @cached_property
    def copies(self) -> Mapping[str, Sequence[Distribution]]:
        """Name -> each place with its metadata, the one that is used first."""
        found: dict[str, dict[tuple[str, str], Distribution]] = {}
        for one in distributions():
            name = one.metadata["Name"]
            if name and one.version:  # a folder that an interrupted install has left holds neither
                found.setdefault(normal(name), {}).setdefault((str(one.locate_file("")), one.version), one)
        return {name: list(copies.values()) for name, copies in found.items()}

    def get(self, name: str) -> Distribution | None:
        return next(iter(self.copies.get(normal(name), ())), None)

    def all(self) -> Iterator[tuple[str, Distribution]]:
        return ((name, copies[0]) for name, copies in sorted(self.copies.items()))

    def plugins(self) -> dict[str, Distribution]:
        return {name: found for name, found in self.all() if is_plugin(found)}

    def own(self) -> dict[str, Distribution]:
        """Kernel, plugins and libraries: what moves together."""
        return {
            name: found
            for name, found in self.all()
            if name == KERNEL or is_plugin(found) or KERNEL in map(_name, requirements(found))
        }

    def duplicates(self) -> dict[str, str]:
        """Plugins and libraries with metadata several times on the path, which an interrupted upgrade leaves behind."""
        own = self.own()
        return {
            name: f"its metadata stands {len(copies)} times on the path ({_places(copies)})"
            for name, copies in self.copies.items()
            if len(copies) > 1 and name in own
        }

    def unmet(self, name: str) -> list[Requirement]:
        found = self.get(name)
        return [r for r in requirements(found) if not self.meets(r)] if found else []

    def meets(self, wanted: Requirement) -> bool:
        found = self.get(wanted.name)
        return found is not None and wanted.specifier.contains(found.version, prereleases=True)

    def dependents(self, name: str) -> list[str]:
        """Plugins and libraries that need it, each also by way of others."""
        own = {n: set(map(_name, requirements(found))) for n, found in self.own().items()}
        needing = {normal(name)}
        while more := {n for n, wanted in own.items() if wanted & needing} - needing:
            needing |= more
        return sorted(needing - {normal(name)})

    def wanted(self) -> dict[str, list[tuple[str, Requirement]]]:
        """What plugins and libraries depend on besides one another: name -> who wants it how.

        What only an extra asks for stands here where it is installed.
        """
        own = self.own()
        found: dict[str, list[tuple[str, Requirement]]] = {}
        for owner, one in own.items():
            extras = [r for r in optional(one) if self.get(r.name) is not None]
            for requirement in (*requirements(one), *extras):
                if _name(requirement) not in own:
                    found.setdefault(_name(requirement), []).append((owner, requirement))
        return dict(sorted(found.items()))


def _name(requirement: Requirement) -> str:
    return normal(requirement.name)


def _places(copies: Sequence[Distribution]) -> str:
    return ", ".join(f"{one.version} in {one.locate_file('')}" for one in copies)
