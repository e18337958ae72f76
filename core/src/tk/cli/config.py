"""`tk config show|schema|validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tk import plugins
from tk.cli.output import as_json, table
from tk.config.files import listed, schema, to_yaml
from tk.setup import Given, plan, resolve

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Show, validate and describe configs.",
)

Files = Annotated[list[Path], typer.Argument(help="YAML files; later ones win.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PluginFiles = Annotated[list[str] | None, typer.Option("--plugin", help="A local plugin file; may be repeated.")]


@app.command()
def show(
    files: Files,
    plugin: PluginFiles = None,
    origins: Annotated[bool, typer.Option("--origins", help="Where each value comes from.")] = False,
    json: Json = False,
) -> None:
    """Show the resolved config of YAML files, every default filled in."""
    config, _ = resolve(Given(files=files, plugin_files=plugin or ()))
    if origins:
        rows = listed(config)
        if json:
            as_json(rows)
        else:
            table(rows, {"path": "PATH", "value": "VALUE", "origin": "FROM"})
    elif json:
        as_json(config.tree)
    else:
        print(to_yaml(config.tree), end="")


@app.command("schema")
def schema_(plugin: PluginFiles = None) -> None:
    """Print the JSON schema of a run's config, with the options of every installed plugin."""
    chosen = plugins.Selection.from_environment().merged(plugins.Selection(files=tuple(plugin or ())))
    as_json(schema(plugins.load(chosen)))


@app.command()
def validate(files: Files, plugin: PluginFiles = None, json: Json = False) -> None:
    """Check that YAML files make a config whose parts fit together."""
    made = plan(Given(files=files, plugin_files=plugin or ()))
    if json:
        as_json({"ok": True, "parts": made.described()})
    else:
        print(f"{', '.join(map(str, files))}: valid, {len(made.described())} parts.")
