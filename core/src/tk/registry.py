"""What discovery has found: plugins with their state, and their components by kind, ready to be looked up and built."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from tk import needs
from tk.errors import TkError, UsageError, nearest
from tk.specs import KindSpec, Spec


@dataclass(frozen=True)
class Plugin:
    """An installed plugin or local file. status: "ok", "broken" (see `reason`) or "disabled".

    mend: the command that may mend a broken one.
    """

    name: str
    distribution: str
    version: str
    value: str
    status: str = "ok"
    reason: str = ""
    notes: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    mend: str = ""

    @property
    def problem(self) -> str:
        """The reason with the mend."""
        return f"{self.reason}: {self.mend}" if self.mend else self.reason


@dataclass(frozen=True)
class Component:
    """A spec with the plugin that it comes from."""

    kind: KindSpec
    spec: Spec
    distribution: str
    version: str

    @property
    def name(self) -> str:
        return self.spec.name

    def target(self) -> Any:
        """Import what the spec describes (`load`)."""
        return self.load(self.spec.target)

    def config(self) -> type | None:
        """The class of the options, or None where the component has none."""
        if self.spec.config is None:
            return None
        loaded = self.load(self.spec.config)
        if not isinstance(loaded, type):
            raise TkError(f"{self.label}: config {self.spec.config!r} is not a class.")
        return loaded

    def build(self, options: Any = None, **context: Any) -> Any:
        """The component itself: `target(options, **context)`, or `target(**context)` where it has no options."""
        target = self.target()
        config = self.config()
        if config is None:
            return target(**context)
        return target(config() if options is None else options, **context)

    def lacks(self, options: Any = None) -> str:
        """What it needs and is not here, with the mend; "" where nothing is, or its options have it run elsewhere."""
        if any(getattr(options, name, None) for name in self.spec.elsewhere):
            return ""
        missing = needs.absent(self.spec.needs)
        if not missing:
            return ""
        text = f"it needs {needs.described(missing)}, not found here: {needs.mend(missing, self.spec.extra)}"
        return text + (f", or say where it is ({', '.join(self.spec.elsewhere)})" if self.spec.elsewhere else "")

    def require(self, path: str, options: Any = None) -> None:
        """Raises TkError where something that it needs is not here. `path`: what chose it, for the message."""
        lacking = self.lacks(options)
        if lacking:
            raise TkError(f"{path}: {self.label} cannot be used: {lacking}.")

    @property
    def label(self) -> str:
        return f"{self.kind.singular} {self.name!r} of {self.distribution}"

    def load(self, reference: Any) -> Any:
        """What a field of the spec names as "module:attribute". Raises TkError with the plugin's name and the mend."""
        if not isinstance(reference, str):
            return reference
        module, _, attribute = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            mend = needs.install(self.spec.extra or str(error.name))
            raise TkError(f"{self.label} needs the package {error.name!r}, which is not installed: {mend}") from error
        except (Exception, SystemExit) as error:  # importing a plugin's module runs its code
            told = f"{type(error).__name__}: {error}"
            raise TkError(f"{self.label} cannot be loaded from {reference!r}: {told}") from error


@dataclass(frozen=True)
class Registry:
    """Every usable component by kind, and every plugin with its state."""

    kinds: Mapping[str, KindSpec]
    components: Mapping[str, Sequence[Component]]
    plugins: Sequence[Plugin]
    disabled: Mapping[str, Sequence[Component]] = field(default_factory=dict)

    def kind(self, name: str) -> KindSpec:
        try:
            return self.kinds[name]
        except KeyError:
            raise UsageError(f"No kind of plugin is named {name!r}.{nearest(name, self.kinds)}") from None

    def all(self, kind: str) -> list[Component]:
        """Components of a kind, by name."""
        return sorted(self.components.get(self.kind(kind).name, ()), key=lambda c: (c.name, c.distribution))

    def names(self, kind: str) -> list[str]:
        return sorted({component.name for component in self.all(kind)})

    def get(self, kind: str, name: str) -> Component:
        """The component of that name or alias; "distribution:name" picks one of several.

        Raises UsageError where there is none (with the nearest name, and what is broken or disabled), or several.
        """
        spec = self.kind(kind)
        distribution, _, plain = name.rpartition(":")
        found = [
            component
            for component in self.components.get(spec.name, ())
            if plain in (component.spec.name, *component.spec.aliases) and distribution in ("", component.distribution)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(sorted(f"'{c.distribution}:{c.name}'" for c in found))
            raise UsageError(f"Several plugins have a {spec.singular} named {plain!r}: say {choices}.")
        raise UsageError(self._missing(spec, plain))

    def _missing(self, kind: KindSpec, name: str) -> str:
        message = f"No {kind.singular} is named {name!r}."
        for component in self.disabled.get(kind.name, ()):
            if name in (component.spec.name, *component.spec.aliases):
                return f"{message} {component.distribution} has it and is disabled (TK_PLUGINS, TK_DISABLE_PLUGINS)."
        known = {word for c in self.components.get(kind.name, ()) for word in (c.spec.name, *c.spec.aliases)}
        message += nearest(name, known)
        broken = [plugin for plugin in self.plugins if plugin.status == "broken"]
        if broken:
            listed = "; ".join(f"{plugin.distribution}: {plugin.problem}" for plugin in broken)
            message += f" These plugins could not be loaded and may have it: {listed}. See `tk plugins list`."
        elif not nearest(name, known):
            message += f" Known: {', '.join(sorted(known)) or 'none'}. See `tk {kind.name} list`."
        return message

    def fingerprint(self) -> str:
        """Hash of all usable components with their versions; equal on every process of a run."""
        lines = sorted(
            f"{kind}/{c.name}={c.distribution}=={c.version}" for kind, found in self.components.items() for c in found
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def manifests(self) -> list[Mapping[str, Any]]:
        """Distribution, version and source of each usable plugin, for run.json."""
        unique = {(plugin.distribution, plugin.version) for plugin in self.plugins if plugin.status == "ok"}
        return [{"distribution": name, "version": version, **source_of(name)} for name, version in sorted(unique)]


def source_of(distribution: str) -> dict[str, Any]:
    """Where a plugin came from (tk.installed.Source), for manifests; a local file from nowhere but itself."""
    from tk import installed  # only where a manifest is written

    try:
        found = installed.source(metadata.distribution(distribution))
    except metadata.PackageNotFoundError:
        found = installed.Source()
    return {"source": found.url, "editable": found.editable}
