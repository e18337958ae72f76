"""Checks of a whole plugin package: it loads, listing it is light, its options are documented, its targets fit."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from pathlib import Path
from typing import get_args

import msgspec

from tk.config.options import Option, options_of
from tk.entries import GROUP, every, of
from tk.plugins import Selection, load
from tk.registry import Component, Plugin, Registry
from tk.testing.contracts import missing
from tk.testing.need import need

HEAVY = ("torch", "transformers", "numpy", "datasets", "peft", "pydantic", "pandas", "tensorflow", "jax", "vllm")
"""Modules that nothing may import to list a package or show its options."""


@dataclass(frozen=True)
class Package:
    """A plugin package under test: its distribution's name, its entry points, and the folders to import it from."""

    name: str
    entries: tuple[EntryPoint, ...]
    paths: tuple[str, ...] = ()

    @classmethod
    def installed(cls, name: str) -> Package:
        """The installed distribution of that name. Raises PackageNotFoundError."""
        found = distribution(name)
        return cls(found.name, tuple(of(found)))

    @classmethod
    def at(cls, folder: Path) -> Package | None:
        """The package whose pyproject.toml is in the folder; None where there is none, or it is no plugin.

        Raises AssertionError where an installed copy has other entry points than the file.
        """
        file = folder / "pyproject.toml"
        project = tomllib.loads(file.read_text("utf-8")).get("project", {}) if file.is_file() else {}
        declared = project.get("entry-points", {}).get(GROUP, {})
        if not declared:
            return None
        try:
            package = cls.installed(project["name"])
        except PackageNotFoundError:
            source = folder / "src"
            entries = tuple(EntryPoint(name, value, GROUP) for name, value in declared.items())
            return cls(project["name"], entries, (str(source if source.is_dir() else folder),))
        known = {entry.name: entry.value for entry in package.entries}
        need(
            known == declared,
            f"{project['name']} is installed with other entry points than {file} has: install it again",
        )
        return package

    def registry(self) -> Registry:
        """Every installed plugin's kinds, and the components of this package alone."""
        own = {(entry.name, entry.value) for entry in self.entries}
        others = [entry for entry in every() if (entry.name, entry.value) not in own]
        everything = load(Selection(), found=[*self.entries, *others])
        plugins = [plugin for plugin in everything.plugins if (plugin.name, plugin.value) in own]
        names = {plugin.distribution for plugin in plugins}
        components = {
            kind: [component for component in found if component.distribution in names]
            for kind, found in everything.components.items()
        }
        return Registry(everything.kinds, {kind: found for kind, found in components.items() if found}, plugins)

    def components(self) -> list[Component]:
        """Every component of the package, kind by kind."""
        registry = self.registry()
        return [component for kind in registry.components for component in registry.all(kind)]


def check_loads(plugin: Plugin) -> None:
    """The plugin's module imports, prints nothing, and every hook in it exists."""
    need(plugin.status == "ok", f"plugin {plugin.name} ({plugin.value}) is {plugin.status}: {plugin.reason}")
    need(not plugin.notes, f"plugin {plugin.name} ({plugin.value}): {'; '.join(plugin.notes)}")
    need(plugin.components, f"plugin {plugin.name} ({plugin.value}) has no component: no hook returned a spec")


def check_listing_is_light(package: Package) -> None:
    """A fresh interpreter lists the package and imports its options without any of `HEAVY`."""
    script = _LIGHT.format(
        paths=list(package.paths),
        entries=[(entry.name, entry.value) for entry in package.entries],
        configs=sorted({c.spec.config for c in package.components() if isinstance(c.spec.config, str)}),
        heavy=HEAVY,
        group=GROUP,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    need(done.returncode == 0, f"listing {package.name} fails:\n{done.stderr.strip()}")
    for what, loaded in json.loads(done.stdout.splitlines()[-1]).items():
        need(not loaded, f"{what} imports {', '.join(loaded)}: import it where it is used, not where it is described")


_LIGHT = """
import json, sys
sys.path[:0] = {paths!r}
from importlib import import_module
from importlib.metadata import EntryPoint
from tk.plugins import Selection, load
heavy = lambda: [name for name in {heavy!r} if name in sys.modules]
seen = dict()
load(Selection(), found=[EntryPoint(name, value, {group!r}) for name, value in {entries!r}])
seen["listing"] = heavy()
for config in {configs!r}:
    import_module(config.partition(":")[0])
    seen[config] = [name for name in heavy() if name not in seen["listing"]]
print(json.dumps(seen))
"""


def check_options(component: Component) -> None:
    """The options are a frozen dataclass, each is documented and has a sensible name, and every default is valid."""
    config = component.config()
    for cls in _classes(config) if config is not None else ():
        label = f"{component.label}: {cls.__name__}"
        frozen = getattr(cls, "__dataclass_params__", None)
        need(frozen is not None, f"{label} is no dataclass")
        need(frozen is not None and frozen.frozen, f"{label} is not frozen: @dataclass(frozen=True)")
        for option in options_of(cls):
            need(
                option.text.strip(), f"{label}: option {option.name!r} has no text: Annotated[…, doc('One sentence.')]"
            )
            need(not option.name.startswith("_"), f"{label}: option {option.name!r} starts with an underscore")
            _check_default(label, option)


def _classes(config: type) -> Iterator[type]:
    """The options class and the dataclasses that its options hold."""
    yield config
    if dataclasses.is_dataclass(config):
        for option in options_of(config):
            for cls in _nested(option):
                yield from _classes(cls)


def _nested(option: Option) -> Iterator[type]:
    """Dataclasses that the option holds: itself, or as what a list or mapping is of."""
    for kind in (option.type, *get_args(option.type)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield kind


def _check_default(label: str, option: Option) -> None:
    if option.required or any(_nested(option)):
        return
    try:
        msgspec.convert(msgspec.to_builtins(option.default), option.annotated, strict=False)
    except msgspec.ValidationError as error:
        raise AssertionError(
            f"{label}: the default {option.default!r} of {option.name!r} is not valid: {error}"
        ) from error


def check_component(component: Component) -> None:
    """It says what it is, its target imports, and a class has what the kind's contract asks for."""
    label = component.label
    summary = component.spec.summary
    need(summary.strip(), f"{label} has no summary: one line for `tk {component.kind.name} list`")
    need("\n" not in summary, f"{label}: its summary has more than one line")
    target = component.target()
    contract = _contract(component)
    if contract is None or not isinstance(target, type):
        need(callable(target) or contract is None, f"{label}: {component.spec.target!r} cannot be called")
        return
    lacks = missing(target, contract)
    need(not lacks, f"{label}: {target.__name__} is no {contract.__name__} yet: {'; '.join(lacks)}")


def _contract(component: Component) -> type | None:
    if not component.kind.contract:
        return None
    module, _, name = component.kind.contract.partition(":")
    found: type = getattr(import_module(module), name)
    return found
