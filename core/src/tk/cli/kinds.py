"""`tk <kind> list|show|check`: one implementation for every kind of plugin, those that plugins add included."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tk import plugins
from tk.cli.output import as_json, table
from tk.config.options import options_of
from tk.registry import Component, Registry
from tk.specs import KindSpec

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PluginFiles = Annotated[list[str] | None, typer.Option("--plugin", help="A local plugin file; may be repeated.")]


def make(kind: KindSpec) -> typer.Typer:
    """The command group of a kind."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        help=kind.summary,
    )

    def complete(incomplete: str) -> list[str]:
        return [n for n in plugins.load().names(kind.name) if n.startswith(incomplete)]

    @app.command("list", help=f"List {kind.name}.")
    def list_(plugin: PluginFiles = None, json: Json = False) -> None:
        rows = [summary(component) for component in _load(plugin).all(kind.name)]
        if json:
            as_json(rows)
        else:
            columns = {"name": "NAME", "distribution": "FROM", "version": "VERSION", "summary": "SUMMARY"}
            table([{**row, "summary": _said(row)} for row in rows], columns)

    @app.command("show", help=f"Show a {kind.singular} and its options.")
    def show(
        name: Annotated[str, typer.Argument(autocompletion=complete)], plugin: PluginFiles = None, json: Json = False
    ) -> None:
        component = _load(plugin).get(kind.name, name)
        if json:
            as_json(described(component))
        else:
            _print(component)

    @app.command("check", help=f"Import a {kind.singular} and say whether it can be used.")
    def check(
        name: Annotated[str, typer.Argument(autocompletion=complete)], plugin: PluginFiles = None, json: Json = False
    ) -> None:
        component = _load(plugin).get(kind.name, name)
        component.require(f"{kind.name} check {component.name}")
        component.config()
        component.target()
        if json:
            as_json({"name": component.name, "ok": True})
        else:
            print(f"{component.label}: it can be imported with its options.")

    return app


def summary(component: Component) -> dict[str, Any]:
    """A component in a line."""
    spec = component.spec
    return {
        "name": spec.name,
        "distribution": component.distribution,
        "version": component.version,
        "summary": spec.summary,
        "aliases": list(spec.aliases),
        "lacks": component.lacks(),
    }


def _said(row: Mapping[str, Any]) -> str:
    """The summary in a list, with what keeps it from being used."""
    return f"(not usable here: {row['lacks']}) {row['summary']}" if row["lacks"] else str(row["summary"])


def described(component: Component) -> dict[str, Any]:
    """A component with its options and capabilities, and the docstring of what it is."""
    spec, config = component.spec, component.config()
    checkpoints = dict(getattr(spec, "checkpoints", {}))
    return {
        **summary(component),
        "kind": component.kind.name,
        "target": spec.target if isinstance(spec.target, str) else "",
        "contract": component.kind.contract,
        "requires": list(spec.requires),
        "supports": list(spec.supports),
        "needs": list(spec.needs),
        "defaults": dict(spec.defaults),
        **({"checkpoints": checkpoints} if checkpoints else {}),
        "options": [
            {"name": o.name, "type": o.shown, "default": o.default, "required": o.required, "text": o.text}
            for o in (options_of(config) if config else ())
        ],
        "about": inspect.getdoc(config) or "" if config else "",
    }


def _print(component: Component) -> None:
    facts = described(component)
    print(f"{facts['name']}: {facts['summary']}")
    print(f"a {component.kind.singular} of {facts['distribution']} {facts['version']}".rstrip())
    for heading in ("aliases", "requires", "supports", "needs"):
        if facts[heading]:
            print(f"{heading}: {', '.join(facts[heading])}")
    if facts["lacks"]:
        print(f"not usable here: {facts['lacks']}")
    for path, value in facts["defaults"].items():
        print(f"suggests: {path} = {value}")
    for name, text in facts.get("checkpoints", {}).items():
        print(f"checkpoint: {name}  {text}")
    if facts["options"]:
        print()
        rows = [{**o, "default": "required" if o["required"] else o["default"]} for o in facts["options"]]
        table(rows, {"name": "OPTION", "type": "TYPE", "default": "DEFAULT", "text": "MEANING"})
    else:
        print("It has no options.")


def _load(files: list[str] | None) -> Registry:
    selection = plugins.Selection.from_environment()
    return plugins.load(selection.merged(plugins.Selection(files=tuple(files or ()))))
