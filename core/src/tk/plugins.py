"""Discovery: installed entry points and local files -> a Registry.

One broken plugin never breaks another: each is imported, checked and asked for its specs under its own guard, and what
went wrong is kept as its `reason`. Nothing of a component is imported before it is used.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from tk import entries, hookspecs, local, needs
from tk.capabilities import CAPABILITIES, is_known
from tk.errors import TkError, UsageError, nearest
from tk.registry import Component, Plugin, Registry
from tk.specs import KERNEL_SECTIONS, KINDS, TK_API, KindSpec, Spec

_DIALECTS = "dialects"


@dataclass(frozen=True)
class Selection:
    """Which plugins may be used, and how strict to be. Names are those of distributions or entry points."""

    only: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    strict: bool = False
    files: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Selection:
        """TK_PLUGINS, TK_DISABLE_PLUGINS (comma-separated) and TK_STRICT."""

        def names(variable: str) -> tuple[str, ...]:
            return tuple(name.strip() for name in environ.get(variable, "").split(",") if name.strip())

        strict = environ.get("TK_STRICT", "").lower() not in ("", "0", "false", "no")
        return cls(names("TK_PLUGINS"), names("TK_DISABLE_PLUGINS"), strict)

    def merged(self, other: Selection) -> Selection:
        """Both: disabled by either, strict by either; `other` narrows `only` where it names any."""
        return Selection(
            other.only or self.only,
            self.disable + other.disable,
            self.strict or other.strict,
            self.files + other.files,
        )

    def allows(self, plugin: Plugin) -> bool:
        names = {plugin.name, plugin.distribution}
        return not names & set(self.disable) and (not self.only or bool(names & set(self.only)))


def load(selection: Selection | None = None, *, found: Iterable[EntryPoint] | None = None) -> Registry:
    """Discover plugins. `found` replaces the installed entry points (tests, workers).

    Raises UsageError for a local file that is not there, TkError for one that cannot be loaded, and in strict mode for
    any broken plugin.
    """
    chosen = selection or Selection.from_environment()
    return _Loader(chosen).run(entries.every() if found is None else found)


class ApiError(TkError):
    """A plugin is written for another kernel. `upgrade`: the distribution that is the older of the two."""

    def __init__(self, wanted: Any, upgrade: str) -> None:
        super().__init__(f"it is written for kernel API {wanted!r}, and this kernel has {TK_API}")
        self.upgrade = upgrade


class _Loader:
    """One discovery. State lives here, not in the module, so that two registries can be built side by side."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.manager = pluggy.PluginManager("tk")
        self.manager.add_hookspecs(hookspecs)
        self.kinds = {kind.name: kind for kind in KINDS}
        self.plugins: dict[str, Plugin] = {}
        self.modules: dict[str, Any] = {}
        self.components: dict[str, list[Component]] = {}
        self.disabled: dict[str, list[Component]] = {}
        self.files: dict[str, Path] = {}
        self.dialects: list[Component] = []

    def run(self, found: Iterable[EntryPoint]) -> Registry:
        for entry in found:
            self._import(entry)
        for key in list(self.modules):
            self._guarded(key, self._collect_kinds, key)
        if self.selection.files:
            for key in list(self.modules):
                self._guarded(key, self._collect_dialects, key)
        for path in map(Path, self.selection.files):
            self._import_file(path)
        for key in list(self.modules):
            self._guarded(key, self._collect, key)
        for key, path in self.files.items():
            if self.plugins[key].status == "broken":
                raise TkError(f"{path}: {self.plugins[key].reason}")
        if self.selection.strict:
            broken = [p for p in self.plugins.values() if p.status == "broken"]
            if broken:
                raise TkError("\n".join(f"Plugin {p.name} of {p.distribution} is broken: {p.reason}" for p in broken))
        return Registry(self.kinds, self.components, list(self.plugins.values()), self.disabled)

    # --- importing ---

    def _import(self, entry: EntryPoint) -> None:
        distribution = entry.dist.name if entry.dist else "unknown"
        version = entry.dist.version if entry.dist else ""
        plugin = Plugin(entry.name, distribution, version, entry.value)
        key = f"{distribution}/{entry.name}"
        if key in self.plugins:
            return
        self.plugins[key] = plugin if self.selection.allows(plugin) else replace(plugin, status="disabled")
        self._guarded(key, self._register, key, entry.load)

    def _import_file(self, path: Path) -> None:
        key = f"{path.resolve()}/{path.stem}"
        if key in self.plugins:
            return
        if not path.is_file():
            raise UsageError(f"plugins.files: there is no file {path}.")
        self.plugins[key] = Plugin(path.stem, str(path), "", str(path))
        self.files[key] = path
        self._guarded(key, self._register, key, lambda: local.load(path, self.dialects))
        if key in self.modules:
            self._guarded(key, self._collect_kinds, key)

    def _register(self, key: str, importer: Callable[[], Any]) -> None:
        module = importer()
        wanted = getattr(module, "TK_API", TK_API)
        if wanted != TK_API:
            newer = isinstance(wanted, int) and wanted > TK_API
            raise ApiError(wanted, "tk-kernel" if newer else self.plugins[key].distribution)
        self.manager.register(module, name=key)
        self.modules[key] = module

    # --- asking for specs ---

    def _collect_kinds(self, key: str) -> None:
        for kind in self._ask(key, "tk_kinds"):
            if not isinstance(kind, KindSpec):
                raise TypeError(f"tk_kinds returned {type(kind).__name__}, not KindSpec")
            if self.plugins[key].status == "disabled":
                continue
            if self.kinds.get(kind.name, kind) != kind:
                raise ValueError(f"the kind {kind.name!r} exists already")
            if kind.name in self.kinds:
                continue
            taken = {*KERNEL_SECTIONS, *(section for known in self.kinds.values() for section in known.sections)}
            for section in taken.intersection(kind.sections):
                raise ValueError(f"the config section {section!r} of the kind {kind.name!r} exists already")
            self.kinds[kind.name] = kind
            self.manager.add_hookspecs(type(kind.hook, (), {kind.hook: staticmethod(_open_hook(kind))}))

    def _collect_dialects(self, key: str) -> None:
        """What local files may be written in, before any is loaded."""
        plugin, kind = self.plugins[key], self.kinds[_DIALECTS]
        for spec in self._ask(key, kind.hook) if plugin.status != "disabled" else ():
            _check_spec(kind, spec)
            self.dialects.append(Component(kind, spec, plugin.distribution, plugin.version))

    def _collect(self, key: str) -> None:
        plugin = self.plugins[key]
        module = self.modules[key]
        collected = [(kind, spec) for kind in self.kinds.values() for spec in self._ask(key, kind.hook)]
        collected += [(self._kind(name), self._kind(name).spec(**words)) for name, words in local.marked(module)]
        if key in self.files:
            alone = not collected and not self.manager.get_hookcallers(module)
            collected += [(self._kind(n), spec) for n, spec in local.read(module, self.dialects, alone=alone)]
        made: list[Component] = []
        for kind, spec in collected:
            _check_spec(kind, spec)
            made.append(Component(kind, spec, plugin.distribution, plugin.version))
        into = self.disabled if plugin.status == "disabled" else self.components
        for component_ in made:
            into.setdefault(component_.kind.name, []).append(component_)
        names = tuple(f"{c.kind.singular}:{c.name}" for c in made)
        self.plugins[key] = replace(plugin, components=names, notes=(*plugin.notes, *self._notes(key)))

    def _kind(self, name: str) -> KindSpec:
        if name not in self.kinds:
            raise ValueError(f"no kind is named {name!r}.{nearest(name, self.kinds)}")
        return self.kinds[name]

    def _ask(self, key: str, hook: str) -> Iterator[Any]:
        caller = getattr(self.manager.hook, hook, None)
        if caller is None:
            return
        for implementation in caller.get_hookimpls():
            if implementation.plugin_name == key:
                yield from implementation.function() or ()

    def _notes(self, key: str) -> Iterator[str]:
        known = {kind.hook for kind in self.kinds.values()} | {"tk_kinds"}
        for caller in self.manager.get_hookcallers(self.modules[key]) or ():
            if caller.name not in known:
                yield f"{caller.name} is no hook here (misspelled, or its kind's package is missing)." + nearest(
                    caller.name, known
                )

    # --- the guard ---

    def _guarded(self, key: str, action: Callable[..., None], *arguments: Any) -> None:
        """Run one plugin's code; whatever it raises or prints becomes that plugin's reason."""
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                action(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may exit, recurse without end, or raise anything at all
            self.modules.pop(key, None)
            if self.manager.has_plugin(key):
                self.manager.unregister(name=key)
            plugin = self.plugins[key]
            if plugin.status != "disabled":
                mend = "" if key in self.files else _mend(error, plugin)
                self.plugins[key] = replace(plugin, status="broken", reason=_reason(error), mend=mend)
        if output.getvalue().strip() and self.plugins[key].status == "ok":
            first = output.getvalue().strip().splitlines()[0]
            self.plugins[key] = replace(
                self.plugins[key], notes=(*self.plugins[key].notes, f"it prints when it is loaded: {first!r}")
            )


def _open_hook(kind: KindSpec) -> Callable[[], Iterable[Spec]]:
    """The hook spec of a kind that a plugin adds: the same form as the kernel's own."""

    def hook() -> Iterable[Spec]:
        raise NotImplementedError

    hook.__name__ = kind.hook
    hook.__doc__ = kind.summary
    return hookspecs.hookspec(hook)


def _check_spec(kind: KindSpec, spec: Any) -> None:
    if not isinstance(spec, kind.spec):
        raise TypeError(f"{kind.hook} returned {type(spec).__name__}, not {kind.spec.__name__}")
    if not spec.name or any(mark in spec.name for mark in " :./"):
        raise ValueError(f"{spec.name!r} is no name for a {kind.singular}: use letters, digits and dashes")
    for reference in (spec.target, spec.config):
        if isinstance(reference, str) and not all(reference.partition(":")):
            raise ValueError(f"{spec.name}: {reference!r} is not of the form 'module:attribute'")
    for word in (*spec.requires, *spec.supports):
        if not is_known(word):
            raise ValueError(f"{spec.name}: no capability is named {word!r}.{nearest(word, CAPABILITIES)}")
    for word in spec.needs:
        if not needs.is_need(word):
            raise ValueError(f"{spec.name}: {word!r} is no need: write 'module:NAME' or 'program:NAME'")


def _reason(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the package {error.name!r}, which is not installed"
    if isinstance(error, SyntaxError):
        return f"syntax error: {error.msg} ({error.filename}:{error.lineno})"
    if isinstance(error, TkError):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _mend(error: BaseException, plugin: Plugin) -> str:
    """The command that may mend a plugin which could not be loaded."""
    from tk import installed  # only where something is broken

    if isinstance(error, ApiError):
        return f"pip install --upgrade {error.upgrade}"
    lacking = installed.unmet(plugin.distribution)
    if lacking:
        return f"pip install {' '.join(repr(str(requirement)) for requirement in lacking)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top != plugin.value.partition(".")[0]:
            return f"pip install {top}"
    there = installed.Installed().get(plugin.distribution)
    if there is None:
        return ""
    origin = installed.source(there)
    if origin.editable:
        return f"mend it in {origin.path}, or tk plugins uninstall {plugin.distribution}"
    return installed.anew(there)
