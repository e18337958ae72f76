"""Raw config: nested mappings from YAML files, the environment and flags, merged, each value with where it was set."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tk.config.sections import expand
from tk.errors import ConfigError

Key = tuple[str, ...]


@dataclass
class Tree:
    """Nested plain values, and for each path the place that set it ("run.yaml:3", "--tuner.rank", "TK_TRAIN__SEED")."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)

    def origin(self, path: Key) -> str:
        """Where a value was set: its own place, else that of the mapping around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return ""

    def get(self, path: Key, default: Any = None) -> Any:
        node: Any = self.values
        for key in path:
            if not isinstance(node, Mapping) or key not in node:
                return default
            node = node[key]
        return node

    def set(self, path: Key, value: Any, origin: str) -> None:
        """Set a value, making the mappings on the way."""
        node = self.values
        for depth, key in enumerate(path[:-1]):
            inner = node.get(key)
            if not isinstance(inner, dict):
                inner = {}
                node[key] = inner
                self.origins.setdefault(path[: depth + 1], origin)
            node = inner
        node[path[-1]] = value
        self.origins[path] = origin

    def drop(self, path: Key) -> None:
        """Forget a value and all below it."""
        parent = self.get(path[:-1]) if len(path) > 1 else self.values
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
        for known in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[known]

    def merge(
        self, other: Tree, choosing: Mapping[str, Collection[str]] | None = None, several: Collection[str] = ()
    ) -> None:
        """Lay `other` over this one: mappings merge, None removes, everything else replaces.

        choosing: sections that choose one component by `name`; where `other` chooses another one, the options that were
        meant for the former one are dropped: all but those named here. several: sections that choose several components;
        where `other` names one without saying more of it, it stays as it is.
        """
        for section, key in [(s, k) for s in several for k, v in (other.get((s,)) or {}).items() if v == {}]:
            if self.get((section, key)) not in (None, False):
                other.drop((section, key))
                if not other.get((section,)):
                    other.drop((section,))
        for section, kept in (choosing or {}).items():
            theirs, ours = other.get((section, "name")), self.get((section, "name"))
            if theirs is not None and ours is not None and theirs != ours:
                for field_ in [name for name in self.get((section,)) if name not in kept]:
                    self.drop((section, field_))
        self._merge((), other)

    def expanded(self, chosen: Mapping[str, str]) -> Tree:
        """The same with short forms written out; `chosen`: section -> what it selects (KindSpec.selects)."""
        values = {section: _expanded(section, value, chosen) for section, value in self.values.items()}
        return Tree(values, dict(self.origins))

    def _merge(self, path: Key, other: Tree) -> None:
        for key, value in (other.get(path, {}) if path else other.values).items():
            here = (*path, key)
            if isinstance(value, Mapping) and value and isinstance(self.get(here), Mapping):
                self._merge(here, other)
                continue
            self.drop(here)
            if value is None and len(here) > 1:
                self.origins[here] = other.origin(here)
            if value is not None or len(here) > 1:
                self.set(here, _copied(value), other.origin(here))
                self.origins.update({p: o for p, o in other.origins.items() if p[: len(here)] == here})


def from_mapping(values: Mapping[str, Any], origin: str) -> Tree:
    """A tree from Python values, short forms as they are (`Tree.expanded`)."""
    tree = Tree()
    for section, value in values.items():
        if value is not None:
            tree.values[section] = plain(value)
            tree.origins[(section,)] = origin
    return tree


def from_yaml(path: Path) -> Tree:
    """A tree from a YAML 1.2 file, short forms as they are. Raises ConfigError with file and line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    try:
        loaded = YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        problem = str(error.problem).split(" with value")[0]
        raise ConfigError(f"{path}:{line}: {problem}: it stands twice; remove one.") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if loaded is None:
        return Tree()
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"{path}:1: a config is a mapping of sections (model, data, train …), not a {_kind(loaded)}.")
    tree = Tree()
    for section, value in loaded.items():
        name = str(section)
        tree.origins[(name,)] = f"{path}:{_line(loaded, section)}"
        _note_lines(path, value, (name,), tree.origins)
        if value is not None:
            tree.values[name] = plain(value)
    return tree


def from_environment(sections: Iterable[str], environ: Mapping[str, str] = os.environ) -> Tree:
    """A tree from TK_SECTION__FIELD variables, e.g. TK_TRAIN__BATCH_SIZE=8. Raises ConfigError for one that is empty."""
    tree, known = Tree(), set(sections)
    for variable, text in sorted(environ.items()):
        if not variable.startswith("TK_") or "__" not in variable:
            continue
        path = tuple(part.lower() for part in variable[3:].split("__"))
        if path[0] not in known:
            raise ConfigError(f"{variable}: the config has no section {path[0]!r} (TK_SECTION__FIELD).")
        if not text.strip():  # a key or a path that did not arrive would else be none
            raise ConfigError(f"{variable} is empty: give it a value (null for none), or unset it.")
        tree.set(path, text, variable)
    return tree


def from_flags(flags: Sequence[tuple[str, str]], chosen: Mapping[str, str]) -> Tree:
    """A tree from dotted flags: ("tuner.rank", "8"); a section alone ("tuner", "lora") is its short form."""
    tree = Tree()
    for name, text in flags:
        section, *rest = name.split(".")
        if rest:
            path = flag_path(section, rest, chosen)
            if len(path) == 2 and chosen.get(section) == "named" and text not in ("false", "null"):
                path = (*path, "name")  # its short form, beside which flags of its options may stand
            tree.set(path, text, f"--{name}")
            continue
        value = _expanded(section, text, chosen)
        if isinstance(value, dict):
            for key, inner in value.items():
                tree.set((section, key), inner, f"--{name}")
        else:
            tree.set((section,), value, f"--{name}")
    return tree


def flag_path(section: str, rest: Sequence[str], chosen: Mapping[str, str]) -> Key:
    """The config path of a flag: dashes are underscores, except in the names of components and sets."""
    named = chosen.get(section, "one") != "one"
    keep = 1 if named else (2 if rest[0] == "sources" else 0)
    return (section, *(p if i < keep else p.replace("-", "_") for i, p in enumerate(rest)))


def _expanded(section: str, value: Any, chosen: Mapping[str, str]) -> Any:
    """Short forms of a section: a component's name, several names in a list, a weight or true instead of options."""
    selects = chosen.get(section)
    if selects is None:
        return expand(section, value)
    if isinstance(value, str):
        if selects == "one":
            return {"name": value}
        if selects == "named":
            return {value: {"name": value}}
        return {name.strip(): {} for name in value.split(",") if name.strip()}
    if selects in ("weighted", "several") and isinstance(value, list):
        return {str(name): {} for name in value}
    return value


def _note_lines(path: Path, node: Any, at: Key, origins: dict[Key, str]) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items():
            origins[(*at, str(key))] = f"{path}:{_line(node, key)}"
            _note_lines(path, value, (*at, str(key)), origins)


def _line(node: Any, key: Any) -> int:
    marks = getattr(getattr(node, "lc", None), "data", None) or {}
    return int(marks[key][0]) + 1 if key in marks else 1


def plain(value: Any) -> Any:
    """A YAML reader's or user's value as plain Python: dict, list, str, int, float, bool, None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return base(value)
    if value is None:
        return None
    return str(value)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return list(value) if isinstance(value, list) else value


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else type(value).__name__
