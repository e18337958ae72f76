"""`tk plugins list|show|check|new`: the installed plugins, however broken one of them is. `tk.cli.packages` has the others."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from tk import plugins
from tk.cli import packages
from tk.cli.output import as_json, table
from tk.config.files import is_options
from tk.config.options import options_of
from tk.errors import TkError, UsageError, nearest
from tk.registry import Component, Plugin, Registry, source_of

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List, inspect, check, write, install and remove plugins.",
)

app.command()(packages.install)
app.command()(packages.uninstall)
app.command()(packages.sync)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    json: Json = False,
    freeze: Annotated[bool, typer.Option("--freeze", help="Print a manifest for `tk plugins sync`.")] = False,
) -> None:
    """List the installed plugins with what they bring; broken ones with the reason."""
    if freeze:
        packages.freeze(json=json)
        return
    registry = plugins.load()
    rows = [_row(plugin) for plugin in sorted(registry.plugins, key=lambda p: (p.distribution, p.name))]
    if json:
        as_json(rows)
        return
    columns = {"distribution": "PLUGIN", "version": "VERSION", "status": "STATUS", "brings": "BRINGS"}
    table([{**row, "brings": _told(row) or ", ".join(row["components"])} for row in rows], columns)


@app.command()
def show(name: str, json: Json = False) -> None:
    """Show one plugin: what it brings, and what is wrong with it."""
    found = _named(plugins.load(), name)
    if json:
        as_json([_row(plugin) for plugin in found])
        return
    for plugin in found:
        print(f"{plugin.distribution} {plugin.version} ({plugin.value}): {plugin.status}")
        if plugin.reason:
            print(f"  {plugin.problem}")
        for line in (*plugin.components, *plugin.notes):
            print(f"  {line}")


@app.command()
def check(name: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> None:
    """Check one plugin, or all: import every component with its options, look for stale and doubled metadata.

    A component that needs what is not here is told, and is no problem of its plugin.
    """
    from tk.installed import normal

    registry = plugins.load()
    chosen = _named(registry, name) if name else registry.plugins
    found = [problem for plugin in chosen for problem in _problems(registry, plugin)]
    found += _metadata_problems(None if name is None else {normal(plugin.distribution) for plugin in chosen})
    lacking = [row for plugin in chosen for row in _lacking(registry, plugin)]
    if json:
        as_json({"ok": not found, "problems": found, "lacking": lacking})
    else:
        for problem in (*found, *lacking):
            print(f"{problem['plugin']}: {problem['problem']}")
        print(f"{len(chosen)} plugins checked, {len(found)} problems.")
    if found:
        sys.exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="What it brings: reward, loss, model, template, tuner, …")],
    name: Annotated[str, typer.Argument(help="Name of the component, with dashes.")],
    folder: Annotated[Path | None, typer.Option("--folder", help="Where; ./tk-plugin-NAME unless given.")] = None,
) -> None:
    """Write a package that installs, passes its checks and works when it is selected."""
    from tk import scaffold

    kinds = {word: k for k in plugins.load().kinds.values() for word in (k.singular, k.name)}
    if kind not in kinds:
        raise UsageError(f"No kind is named {kind!r}.{nearest(kind, kinds)} Kinds: {', '.join(sorted(kinds))}.")
    target = folder or Path(f"tk-plugin-{name}")
    written = scaffold.write(kinds[kind], name, target)
    for path in written:
        print(path)
    print(f"Next: pip install -e {target} && python -m pytest {target}")


def _row(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        **source_of(plugin.distribution),
        "status": plugin.status,
        "reason": plugin.reason,
        "mend": plugin.mend,
        "components": list(plugin.components),
        "notes": list(plugin.notes),
    }


def _told(row: dict[str, Any]) -> str:
    return ": ".join(filter(None, (row["reason"], row["mend"])))


def _named(registry: Registry, name: str) -> list[Plugin]:
    found = [p for p in registry.plugins if name in (p.name, p.distribution)]
    if not found:
        names = {word for p in registry.plugins for word in (p.name, p.distribution)}
        raise UsageError(f"No plugin is named {name!r}.{nearest(name, names)} See `tk plugins list`.")
    return found


def _problems(registry: Registry, plugin: Plugin) -> list[dict[str, str]]:
    label = f"{plugin.distribution}/{plugin.name}"
    if plugin.status == "broken":
        return [{"plugin": label, "problem": plugin.problem}]
    found = [{"plugin": label, "problem": note} for note in plugin.notes]
    for component in _of(registry, plugin):
        if not component.lacks():
            found += [{"plugin": label, "problem": text} for text in component_problems(component)]
    return found


def _lacking(registry: Registry, plugin: Plugin) -> list[dict[str, str]]:
    """Its components that cannot be used here, for want of something that they say they need."""
    label = f"{plugin.distribution}/{plugin.name}"
    told = [(component.label, component.lacks()) for component in _of(registry, plugin)]
    return [{"plugin": label, "problem": f"{name} cannot be used here: {text}"} for name, text in told if text]


def _of(registry: Registry, plugin: Plugin) -> list[Component]:
    return [c for group in registry.components.values() for c in group if c.distribution == plugin.distribution]


def component_problems(component: Component) -> list[str]:
    """What is wrong with a component: its import, the class of its options, options without a text."""
    try:
        config = component.config()
        component.target()
        if config is None:
            return []
        if not is_options(config):
            return [f"{component.label}: {config.__name__} is not a frozen dataclass"]
        return [f"{component.label}: option {o.name!r} has no text" for o in options_of(config) if not o.text]
    except TkError as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001 - annotations that cannot be read run code too
        return [f"{component.label}: its options cannot be read: {type(error).__name__}: {error}"]


def _metadata_problems(names: Collection[str] | None) -> list[dict[str, str]]:
    """Distributions of these names (None: all) with metadata twice, of what is gone, or that cannot be read."""
    from tk.installed import Installed, stale, unreadable

    there = Installed()
    own = there.own()
    again = there.duplicates() | {n: text for n, one in own.items() if (text := stale(one))}
    found = [(name, f"{text}: install it again") for name, text in again.items()]
    found += [(name, text) for name, one in own.items() for text in unreadable(one)]
    return [{"plugin": n, "problem": text} for n, text in sorted(found) if names is None or n in names]
