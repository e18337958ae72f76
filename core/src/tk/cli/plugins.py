"""`tk plugins list|show|check|new`: the installed plugins, however broken one of them is."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import typer

from tk import plugins
from tk.cli.output import as_json, table
from tk.config.files import is_options
from tk.config.options import options_of
from tk.errors import TkError, UsageError, nearest
from tk.registry import Component, Plugin, Registry

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="List, inspect, check and write plugins.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the installed plugins with what they bring; broken ones with the reason."""
    registry = plugins.load()
    rows = [_row(plugin) for plugin in sorted(registry.plugins, key=lambda p: (p.distribution, p.name))]
    if json:
        as_json(rows)
        return
    columns = {"distribution": "PLUGIN", "version": "VERSION", "status": "STATUS", "brings": "BRINGS"}
    table([{**row, "brings": row["reason"] or ", ".join(row["components"])} for row in rows], columns)


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
            print(f"  {plugin.reason}")
        for line in (*plugin.components, *plugin.notes):
            print(f"  {line}")


@app.command()
def check(name: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> None:
    """Check one plugin, or all: import every component with its options, look for stale and doubled metadata."""
    registry = plugins.load()
    chosen = _named(registry, name) if name else registry.plugins
    found = [problem for plugin in chosen for problem in _problems(registry, plugin)]
    if name is None:
        found += _metadata_problems()
    if json:
        as_json({"ok": not found, "problems": found})
    else:
        for problem in found:
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
        "status": plugin.status,
        "reason": plugin.reason,
        "components": list(plugin.components),
        "notes": list(plugin.notes),
    }


def _named(registry: Registry, name: str) -> list[Plugin]:
    found = [p for p in registry.plugins if name in (p.name, p.distribution)]
    if not found:
        names = {word for p in registry.plugins for word in (p.name, p.distribution)}
        raise UsageError(f"No plugin is named {name!r}.{nearest(name, names)} See `tk plugins list`.")
    return found


def _problems(registry: Registry, plugin: Plugin) -> list[dict[str, str]]:
    label = f"{plugin.distribution}/{plugin.name}"
    if plugin.status == "broken":
        return [{"plugin": label, "problem": plugin.reason}]
    found = [{"plugin": label, "problem": note} for note in plugin.notes]
    for group in registry.components.values():
        for component in group:
            if component.distribution == plugin.distribution:
                found += [{"plugin": label, "problem": text} for text in component_problems(component)]
    return found


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


def _metadata_problems() -> list[dict[str, str]]:
    """Distributions with metadata twice on the path: what an interrupted upgrade leaves behind."""
    names = Counter(d.metadata["Name"] for d in distributions() if any(e.group == "tk" for e in d.entry_points))
    return [
        {"plugin": str(name), "problem": f"its metadata stands {n} times on the path: uninstall and install it again"}
        for name, n in names.items()
        if n > 1
    ]
