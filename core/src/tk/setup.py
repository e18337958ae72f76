"""From what a user gave (files, mappings, flags, environment, a former run) to a Plan: the one way into every command."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tk import plugins
from tk.compose import Plan, compose
from tk.config.resolve import Config, Resolver, chosen_kinds, sections_of
from tk.config.tree import Key, Tree, from_environment, from_flags, from_mapping, from_yaml
from tk.errors import ConfigError, UsageError
from tk.plugins import Selection
from tk.registry import Registry


@dataclass(frozen=True)
class Given:
    """What a user gave, from the weakest to the strongest: environment, run, files, values, flags.

    run: folder of a former run whose config.yaml comes first. forget: paths of it that are left out; instead: paths that
    are left out of files and values too, since flags say something else.
    files: YAML files. values: mappings from Python. flags: ("tuner.rank", "8") pairs. plugin_files: --plugin.
    """

    run: Path | None = None
    forget: Sequence[Key] = ()
    instead: Sequence[Key] = ()
    files: Sequence[Path] = ()
    values: Sequence[Mapping[str, Any]] = ()
    flags: Sequence[tuple[str, str]] = ()
    plugin_files: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


TRAINED_ON: tuple[Key, ...] = (("data", "sources"), ("eval", "sources"), ("rewards",))
"""What a run was trained and evaluated on, and rewarded by: nothing that another command should take up by itself."""


def given_from(config: Any, sections: Mapping[str, Any], run: str | Path | None = None) -> Given:
    """What the Python API was called with: a config as file, mapping or nothing, and sections as keywords."""
    folder = Path(run) if run is not None else None
    if config is None:
        return Given(run=folder, values=(sections,))
    if isinstance(config, (str, Path)):
        return Given(run=folder, files=(Path(config),), values=(sections,))
    if isinstance(config, Config):
        return Given(run=folder, values=(config.tree, sections))
    if isinstance(config, Mapping):
        return Given(run=folder, values=(config, sections))
    raise UsageError(f"a config is a mapping or the path of a YAML file, not {type(config).__name__}.")


def resolver(given: Given) -> Resolver:
    """Plugins loaded as the config says, and its layers merged."""
    raw = [from_yaml(path) for path in _files(given)] + [from_mapping(v, "the call") for v in given.values]
    selection = _selection(given, raw)
    registry = plugins.load(selection)
    chosen = chosen_kinds(registry)
    environment = from_environment(sections_of(registry), given.environ)
    trees = [tree.expanded(chosen) for tree in raw]
    for path in given.forget if given.run else ():
        trees[0].drop(path)
    for tree, path in product(trees, given.instead):
        tree.drop(path)
    layers = [environment, *trees, from_flags(given.flags, chosen)]
    if given.plugin_files:  # beside those that a config names
        layers.append(from_mapping({"plugins": {"files": list(selection.files)}}, "--plugin"))
    return Resolver(registry, layers)


def resolve(given: Given) -> tuple[Config, Registry]:
    """The resolved config and the plugins that it was resolved with."""
    found = resolver(given)
    return found.config(), found.registry


def plan(given: Given, *, output: bool = False) -> Plan:
    """What would run; with `output`, in a folder of its own where none is named: runs/<method>-<model>-<time>.

    Raises UsageError, ConfigError with path and mend; with `output`, TkError where a part needs what is not here.
    """
    found = resolver(given)
    resumed = str(found.tree.get(("train", "resume"), "")).lower() == "true"
    if given.run and resumed and not any(name.split(".")[0] == "output" for name, _ in given.flags):
        found.tree.set(("output", "dir"), str(given.run), "--run")  # wherever the run was when it began
    if output:
        found.tree.drop(("server",))  # who may ask one, and by which key, is no part of a run that is written down
    if output and resumed and not found.tree.get(("output", "dir")):
        raise UsageError("--resume: no run is named to go on with: --run FOLDER.")
    if output and not found.tree.get(("output", "dir")):
        method = found.one(found.registry.kind("methods"))
        model = Path(str(found.tree.get(("model", "name"), "model"))).name
        folder = f"runs/{method.name if method else 'run'}-{model}-{time.strftime('%Y%m%d-%H%M%S')}"
        found.tree.set(("output", "dir"), folder, "the time")
    made = compose(found.config(), found.registry)
    if output:
        made.require(but=("launcher",))  # asked when it starts something, which need not be here
    return made


def _files(given: Given) -> list[Path]:
    if given.run is None:
        return list(given.files)
    config = given.run / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{given.run}: this folder holds no run (it has no config.yaml).")
    return [config, *given.files]


def _selection(given: Given, raw: Sequence[Tree]) -> Selection:
    """Which plugins may be loaded: by the environment, the config's `plugins` section, its flags and --plugin."""
    selection = Selection.from_environment(given.environ)
    flags = from_flags([(n, t) for n, t in given.flags if n.split(".")[0] == "plugins"], {})
    variables = {name: text for name, text in given.environ.items() if name.startswith("TK_PLUGINS__")}
    for tree in (from_environment(["plugins"], variables), *raw, flags):
        node = tree.get(("plugins",), {})
        if not isinstance(node, Mapping):
            raise ConfigError(f"plugins: expected a mapping, got {node!r} (set by {tree.origin(('plugins',))})")
        selection = selection.merged(
            Selection(
                _words(node.get("only")),
                _words(node.get("disable")),
                str(node.get("strict", "")).lower() == "true",
                _words(node.get("files")),
            )
        )
    return selection.merged(Selection(files=tuple(given.plugin_files)))


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.strip("[]").split(",") if word.strip())
    return tuple(str(word) for word in value or ())
