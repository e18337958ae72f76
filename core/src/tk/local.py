"""Local plugin files (`--plugin file.py`): how one is loaded, and what it holds.

A file brings hooks, marked functions and classes (`component`), or what a dialect reads in it: a dialect is a plugin
that knows how files for another framework are written. What such a file imports of that framework is given to this file
alone, by an `__import__` of its own: nothing is put into `sys.modules`, and no other module sees it.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from tk.errors import TkError
from tk.registry import Component
from tk.specs import DialectSpec, Spec

if TYPE_CHECKING:
    from tk.contracts import Dialect

T = TypeVar("T")
_MARK = "__tk_component__"
_DIALECTS = "__tk_dialects__"


def component(kind: str, name: str = "", *, summary: str = "", **spec: Any) -> Callable[[T], T]:
    """Mark a function or class of a local plugin file as a component of `kind` (plural), e.g. a reward.

    A function is the component itself; a class is built like any other target. The name is the object's own, with
    dashes (as it is spelled will do too), unless given; further keywords are the spec's.
    """

    def mark(target: T) -> T:
        own = getattr(target, "__name__", "")
        chosen = name or own.replace("_", "-").lower()
        words = {"name": chosen, "aliases": () if name or own == chosen else (own,), **spec}
        text = summary or (inspect.getdoc(target) or "").split("\n")[0]
        factory = target if isinstance(target, type) else (lambda *_, **__: target)
        setattr(target, _MARK, (kind, {**words, "target": factory, "summary": text}))
        return target

    return mark


def load(path: Path, dialects: Sequence[Component]) -> ModuleType:
    """The file as a module, loaded once for what stands in it. Raises whatever the file raises."""
    content = path.read_bytes()
    name = "tk_local_" + hashlib.sha256(str(path.resolve()).encode() + b"\0" + content).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    imported = _imported(content)
    own = [(_spec(d), d.build()) for d in dialects if imported.intersection(_spec(d).imports)]
    if own:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _importer(own)}
    setattr(module, _DIALECTS, [dialect for _, dialect in own])
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def marked(module: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(kind, fields of the spec) of what `component` has marked in a module."""
    for value in list(vars(module).values()) if isinstance(module, ModuleType) else ():
        mark = getattr(value, _MARK, None)
        if isinstance(mark, tuple) and getattr(value, "__module__", None) == module.__name__:
            yield mark


def read(module: ModuleType, dialects: Sequence[Component], *, alone: bool) -> Iterator[tuple[str, Spec]]:
    """(kind, spec) of what dialects find in a loaded file: those whose framework it imports.

    alone: the file brings nothing else. Then dialects of files that need no import are asked, and TkError is raised,
    saying what was looked for, where none finds anything.
    """
    readers: Sequence[Dialect] = getattr(module, _DIALECTS)
    if alone and not readers:
        readers = [d.build() for d in dialects if not _spec(d).imports]
    found = [pair for reader in readers for pair in reader.read(module)]
    if alone and not found:
        raise TkError(_nothing(dialects))
    yield from found


def _nothing(dialects: Iterable[Component]) -> str:
    looked = ["hooks (@hookimpl)", "functions and classes marked @component(KIND)"]
    looked += [f"{d.name} ({d.spec.summary.rstrip('.')})" for d in dialects]
    return "nothing of a plugin is in it. Looked for: " + "; ".join(looked) + "."


def _spec(dialect: Component) -> DialectSpec:
    assert isinstance(dialect.spec, DialectSpec)  # held by the kind
    return dialect.spec


def _imported(content: bytes) -> set[str]:
    """Top-level packages that a file imports anywhere; none of one that does not parse, which loading it will tell."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def _importer(dialects: Iterable[tuple[DialectSpec, Dialect]]) -> Callable[..., Any]:
    """An `__import__` that asks dialects for modules of their frameworks, and is the usual one for all others."""
    offering = {package: dialect for spec, dialect in dialects for package in spec.imports}

    def find(
        name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> Any:
        top = name.partition(".")[0]
        offered = offering[top].offer(name) if level == 0 and top in offering else None
        if offered is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        return offered if fromlist else offering[top].offer(top)

    return find
