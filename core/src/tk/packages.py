"""Installing, restoring and removing plugins: pip (or uv, where that is in use) does the work and nothing else changes.

A plan is made first, with every version that is here as a constraint, so that a plugin which would change torch, numpy
or another plugin is refused before anything is touched. Only metadata is read: a broken plugin is like any other.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from tk import entries
from tk.entries import KERNEL, PREFIX
from tk.errors import TkError, UsageError, nearest
from tk.installed import Installed, Source, is_plugin, normal, project_of, source


@dataclass(frozen=True)
class Asked:
    """What is to be installed. name: of its distribution. words: as pip and uv take it."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A distribution before and after; "" where it is not there."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class InstallPlan:
    """What would change. `refused`: why it may not, in words."""

    asked: Sequence[Asked]
    changes: Sequence[Change]
    refused: str = ""
    constraints: Sequence[str] = field(default=(), repr=False)


class RefusedError(TkError):
    """The installer could not do it. The message is what it said."""


# --- what is meant ---


def named(word: str, there: Installed) -> str:
    """The distribution that a name means: as it is installed, else a short name with `tk-plugin-` in front."""
    if normal(word) in there.own():
        return normal(word)
    plugins = there.plugins()
    by_entry = [name for name, found in plugins.items() if word in (e.name for e in entries.of(found))]
    full = normal(word if "tk" in re.split(r"[-_.]", word) else PREFIX + word)
    return by_entry[0] if len(by_entry) == 1 and full not in plugins else full


def read(word: str, there: Installed, *, editable: bool = False) -> Asked:
    """What a user wrote: NAME, NAME@VERSION, the path of a folder (with a slash in it) or of a wheel."""
    if word.endswith((".whl", ".tar.gz")) or "/" in word or word.startswith("."):
        path = Path(word).expanduser().resolve()
        return Asked(_name_at(path, word), ("-e", str(path)) if editable else (str(path),))
    if editable:
        raise UsageError(f"--editable: {word} is no folder: write it with a slash (./{word}).")
    name, _, version = word.partition("@")
    full = named(name, there)
    text = f"{full}=={version}" if version else full
    try:
        Requirement(text)
    except InvalidRequirement:
        raise UsageError(f"{word!r} names no plugin: write NAME, NAME@VERSION, a folder or a wheel.") from None
    return Asked(full, (text,))


def _name_at(path: Path, word: str) -> str:
    """The distribution's name in a folder or file name. Raises UsageError where there is none."""
    if not path.exists():
        raise UsageError(f"{word}: there is no such folder or wheel.")
    if path.suffix == ".whl":
        try:
            return normal(parse_wheel_filename(path.name)[0])
        except InvalidWheelFilename as error:
            raise UsageError(f"{word}: this is no wheel's name: {error}.") from None
    if path.is_file():
        return normal(path.name.removesuffix(".tar.gz").rpartition("-")[0])
    try:
        name = project_of(path).get("name")
    except TkError as error:
        raise UsageError(f"{word}: {error}") from error
    if not name:
        raise UsageError(f"{word}: the folder holds no package (no pyproject.toml with a [project] name).")
    return normal(name)


# --- pip and uv ---


class Installer(Protocol):
    """What installs into this interpreter's environment. Its methods raise RefusedError with what it said."""

    def changes(self, words: Sequence[str], constraints: Path, there: Installed) -> list[Change]:
        """What installing would change; nothing is."""
        ...

    def install(self, words: Sequence[str], constraints: Path) -> None: ...

    def uninstall(self, name: str) -> None: ...


def installer() -> Installer:
    """pip where this environment has it, else uv. Raises TkError where neither is here."""
    if find_spec("pip") is not None:
        return Pip([sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"])
    uv = [sys.executable, "-m", "uv"] if find_spec("uv") is not None else [shutil.which("uv") or ""]
    if uv == [""]:
        raise TkError(f"there is neither pip nor uv here: {sys.executable} -m ensurepip")
    return Uv([*uv, "pip"], ["--python", sys.executable])


@dataclass(frozen=True)
class Pip:
    command: Sequence[str]

    def changes(self, words: Sequence[str], constraints: Path, there: Installed) -> list[Change]:
        report = constraints.with_name("report.json")
        _run([*self.command, "install", "--dry-run", "--report", str(report), "-c", str(constraints), *words])
        rows = (row["metadata"] for row in json.loads(report.read_text("utf-8"))["install"])
        return [_change(row["name"], row["version"], there) for row in rows]

    def install(self, words: Sequence[str], constraints: Path) -> None:
        _run([*self.command, "install", "-c", str(constraints), *words])

    def uninstall(self, name: str) -> None:
        _run([*self.command, "uninstall", "-y", name])


@dataclass(frozen=True)
class Uv:
    command: Sequence[str]
    where: Sequence[str]

    def changes(self, words: Sequence[str], constraints: Path, there: Installed) -> list[Change]:
        told = _run([*self.command, "install", "--dry-run", *self.where, "-c", str(constraints), *words])
        found = re.findall(r"^ ([-+~]) (\S+?)==(\S+)", told, re.MULTILINE)
        after = {normal(name): version for sign, name, version in found if sign != "-"}
        gone = {normal(name) for sign, name, _ in found if sign == "-"} - set(after)
        return [_change(name, version, there) for name, version in [*after.items(), *((name, "") for name in gone)]]

    def install(self, words: Sequence[str], constraints: Path) -> None:
        _run([*self.command, "install", *self.where, "-c", str(constraints), *words])

    def uninstall(self, name: str) -> None:
        _run([*self.command, "uninstall", *self.where, name])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(_told(done.stdout + "\n" + done.stderr))
    return done.stderr


def _told(text: str) -> str:
    """Why pip or uv gave up: what it calls the conflict, else its errors."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    begin = next((i for i, line in enumerate(lines) if line.startswith("The conflict is caused by")), None)
    if begin is not None:
        caused = [line.strip() for line in lines[begin + 1 :] if line.startswith("    ")]
        return "; ".join(line.replace("The user requested (constraint)", "installed is") for line in caused)
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return " ".join(errors or [line.strip(" ×╰─▶") for line in lines])


def _change(name: str, version: str, there: Installed) -> Change:
    found = there.get(name)
    return Change(normal(name), found.version if found else "", version)


# --- installing ---


def plan(asked: Sequence[Asked], there: Installed | None = None) -> InstallPlan:
    """What installing would change, found by the installer itself, which keeps to every other version that is here."""
    there = there or Installed()
    names = {one.name for one in asked}
    strange = [name for name in names if there.get(name) is not None and name not in there.own()]
    if strange:
        return InstallPlan(asked, (), f"{', '.join(strange)}: no tk plugin, and installed: it is changed with pip")
    kept = [f"{name}=={found.version}" for name, found in there.all() if name not in names]
    words = [word for one in asked for word in one.words]
    with _constraints(kept) as path:
        try:
            changes = installer().changes(words, path, there)
        except RefusedError as error:
            return InstallPlan(asked, (), f"with what is installed as it is: {error}", kept)
    changes.sort(key=lambda change: (change.name not in names, change.name))  # what was asked for first
    others = [c for c in changes if c.before and c.name not in names and c.before != c.after]
    told = ", ".join(f"{c.name} {c.before} → {c.after or 'gone'}" for c in others)
    return InstallPlan(asked, changes, f"it would change what is installed: {told}" if others else "", kept)


def install(made: InstallPlan) -> None:
    """Carry a plan out. Raises TkError where what came is no plugin, which is then taken away again."""
    if made.refused:
        raise TkError(made.refused)
    with _constraints(made.constraints) as path:
        installer().install([word for one in made.asked for word in one.words], path)
    importlib.invalidate_caches()
    there = Installed()
    own = there.own()
    strange = [one.name for one in made.asked if one.name not in own]
    if strange:
        for change in made.changes:
            if not change.before:
                installer().uninstall(change.name)
        raise TkError(
            f"{', '.join(strange)}: no tk plugin (no entry point in the group tk): what came with it was taken away "
            "again. Other packages are installed with pip."
        )


@contextmanager
def _constraints(lines: Sequence[str]) -> Iterator[Path]:
    """A file with these lines, for as long as the block lasts."""
    with TemporaryDirectory(prefix="tk-") as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield path


@dataclass(frozen=True)
class Brought:
    """What a plugin brought, asked in a process of its own: components as "kind:name", and what is wrong with it.

    lacking: what some of them still need before they can be used.
    """

    distribution: str
    components: Sequence[str]
    problems: Sequence[str] = ()
    lacking: Sequence[str] = ()


def brought(name: str) -> Brought:
    """The check of an installed plugin, by an interpreter that has not seen what was here before."""
    tk = [sys.executable, "-m", "tk", "plugins"]
    shown = subprocess.run([*tk, "show", name, "--json"], capture_output=True, text=True, check=False)
    checked = subprocess.run([*tk, "check", name, "--json"], capture_output=True, text=True, check=False)
    if shown.returncode or not checked.stdout:
        last = (shown.stderr or checked.stderr).strip().splitlines()
        return Brought(name, (), [last[-1] if last else "it ends the process that loads it"])
    found = json.loads(checked.stdout)
    components = [component for row in json.loads(shown.stdout) for component in row["components"]]
    problems, lacking = ([row["problem"] for row in found[what]] for what in ("problems", "lacking"))
    return Brought(name, components, problems, lacking)


# --- removing ---


def removable(word: str, there: Installed) -> str:
    """The installed distribution that a name means. Raises UsageError where it is none, or no plugin."""
    name = named(word, there)
    own = {n: found for n, found in there.own().items() if n != KERNEL}
    if name in own:
        return name
    if there.get(word) is not None:
        raise UsageError(f"{word} is no tk plugin: what else is installed is removed with pip.")
    short = {n.removeprefix(PREFIX): n for n in own}
    raise UsageError(f"No plugin named {word!r} is installed.{nearest(word, [*short, *own])} See `tk plugins list`.")


def uninstall(name: str) -> list[str]:
    """Remove a plugin with every copy of its metadata; what is left of it, in words.

    Raises TkError where a copy is outside of this environment.
    """
    told = []
    for found in Installed().copies[normal(name)]:
        try:
            installer().uninstall(name)
        except RefusedError as error:  # it has no record of its files, say
            told.append(f"{name} {found.version}: its code may still be in {found.locate_file('')}: {error}")
    importlib.invalidate_caches()
    for left in Installed().copies.get(normal(name), ()):
        if not Path(str(left.locate_file(""))).is_relative_to(sys.prefix):
            raise TkError(
                f"{name}: {left.version} in {left.locate_file('')} is outside of this environment ({sys.prefix}): it is "
                "removed by the installer of the one that it is in."
            )
        for folder in _metadata(left):
            shutil.rmtree(folder)
    importlib.invalidate_caches()
    return told


def _metadata(found: Distribution) -> Iterator[Path]:
    """The folders with the metadata of a distribution that its installer does not know how to remove."""
    for folder in Path(str(found.locate_file(""))).glob("*.dist-info"):
        other = Distribution.at(folder)
        if normal(other.metadata["Name"] or "") == normal(found.metadata["Name"]) and other.version == found.version:
            yield folder


# --- manifests ---


def manifest(there: Installed) -> list[str]:
    """Kernel, plugins and libraries as lines that `sync` (and pip) reads."""
    return [_line(name, there) for name in there.own()]


def _line(name: str, there: Installed) -> str:
    found = there.get(name)
    assert found is not None
    origin = source(found)
    if origin.editable:
        return f"-e {origin.path}"
    return f"{name} @ {origin.url}" if origin.url else f"{name}=={found.version}"


def asked_by(file: Path, there: Installed) -> list[Asked]:
    """What a manifest names: lines as `manifest` writes them, the JSON of `tk plugins list`, or a run's run.json.

    Raises UsageError with file and line.
    """
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file.")
    text = file.read_text("utf-8")
    if text.lstrip().startswith(("[", "{")):
        return _from_json(file, text)
    lines = [(number, line.partition(" #")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [_from_line(f"{file}:{number}", line) for number, line in lines if line and not line.startswith("#")]


def _from_json(file: Path, text: str) -> list[Asked]:
    try:
        found = json.loads(text)
        rows: Sequence[Mapping[str, Any]] = found["plugins"] if isinstance(found, dict) else found
        found_at = {normal(row["distribution"]): row for row in rows if row["version"]}  # a local file has none
        asked = {n: (row["version"], Source(row["source"], row["editable"])) for n, row in found_at.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: this is no manifest of plugins: {type(error).__name__}: {error}.") from None
    return [_again(str(file), name, version, origin) for name, (version, origin) in asked.items()]


def _again(where: str, name: str, version: str, origin: Source) -> Asked:
    """What installs it from where it was. Raises UsageError where that was a folder or file, and it is not here."""
    if origin.path and not Path(origin.path).exists():
        raise UsageError(
            f"{where}: {name} {version} was installed from {origin.path}, which is not here: install it from where it is "
            "now, and take it out of the manifest. A package of this name in an index may be another one."
        )
    if origin.editable:
        return Asked(name, ("-e", origin.path))
    return Asked(name, (f"{name} @ {origin.url}" if origin.url else f"{name}=={version}",))


def _from_line(where: str, line: str) -> Asked:
    if line.startswith("-e "):
        folder = line.removeprefix("-e ").strip()
        return Asked(_name_at(Path(folder), f"{where}: {folder}"), ("-e", folder))
    try:
        found = Requirement(line)
    except InvalidRequirement as error:
        raise UsageError(f"{where}: {line!r} names no plugin: {error}.") from None
    path = Source(found.url or "").path
    if path and not Path(path).exists():
        raise UsageError(f"{where}: {path}: there is no such folder or wheel.")
    return Asked(normal(found.name), (line,))


def different(asked: Sequence[Asked], there: Installed) -> list[Asked]:
    """Those that are not here as the manifest has them."""
    return [one for one in asked if not _is_there(one, there)]


def _is_there(one: Asked, there: Installed) -> bool:
    found = there.get(one.name)
    if found is None:
        return False
    origin = source(found)
    if one.words[0] == "-e":
        return origin.editable and Path(origin.path) == Path(one.words[1])
    wanted = Requirement(one.words[0])
    if wanted.url:
        return not origin.editable and unquote(origin.url) == unquote(wanted.url)
    return wanted.specifier.contains(found.version, prereleases=True)


def unnamed(asked: Collection[Asked], there: Installed) -> list[str]:
    """Plugins that are here and that a manifest does not name."""
    names = {one.name for one in asked}
    return [name for name, found in there.own().items() if name not in names and is_plugin(found)]
