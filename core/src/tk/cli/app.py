"""The Typer app: fixed commands, a generic command for every kind of plugin, and commands that plugins bring.

Commands are made when they are asked for, so that help and lists import nothing that they do not show.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tk import __version__, plugins
from tk.errors import TkError
from tk.registry import Registry

_HELP: dict[str, str] = {
    "train": "Fine-tune a model.",
    "infer": "Generate answers to a file of prompts, and score them.",
    "embed": "Write the vectors of texts.",
    "chat": "Talk to a model.",
    "serve": "Offer a model to clients.",
    "data": "Look at data as a run would train on it.",
    "export": "Write a trained model as a plain checkpoint.",
    "plugins": "List, inspect, check, write, install and remove plugins.",
    "config": "Show, validate and describe configs.",
    "doctor": "Say what works here and what does not.",
}


def _command(name: str) -> typer.Typer:
    """The Typer app of a fixed command that takes no run config."""
    if name == "plugins":
        from tk.cli import plugins as module

        return module.app
    if name == "data":
        return _listing(_HELP[name], {"preview": "Show rows as a run would train on them."})
    from tk.cli import config as other

    return other.app


def _listing(summary: str, helps: dict[str, str]) -> typer.Typer:
    """A group for its help: its commands are made when they are named."""
    sub = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    sub.callback(help=summary)(_nothing)
    for name, text in helps.items():
        sub.command(name, help=text)(_nothing)
    return sub


class TkGroup(TyperGroup):
    """`tk`: resolves the command named, lazily."""

    @cached_property
    def registry(self) -> Registry:
        return plugins.load()

    def list_commands(self, ctx: Any) -> list[str]:
        kinds = [name for name in self.registry.kinds if name not in _HELP]
        return [*_HELP, *sorted(c.name for c in self.registry.all("commands")), *sorted(kinds)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A light stand-in that shows in help; `resolve_command` makes the real one."""
        helps = {**{k: f"List and show {k}." for k in self.registry.kinds}, **_HELP}
        helps.update({c.name: c.spec.summary for c in self.registry.all("commands")})
        return _made(_nothing, cmd_name, helps[cmd_name]) if cmd_name in helps else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from tk.cli import run

        name, rest = args[0], list(args[1:])
        if rest and f"{name} {rest[0]}" in run.COMMANDS:
            name, rest = f"{name} {rest[0]}", rest[1:]
        if name in run.COMMANDS:
            command, rest = run.make(name, rest, completing=ctx.resilient_parsing)
            return name, command, rest
        if name == "doctor":
            from tk.cli import doctor

            return name, _made(doctor.doctor, name, _HELP[name]), rest
        if name in ("plugins", "config", "data"):
            return name, _group(_command(name), name), rest
        brought = [c for c in self.registry.all("commands") if c.name == name]
        if brought:
            target = self.registry.get("commands", name).target()
            if isinstance(target, typer.Typer):
                return name, _group(target, name), rest
            return name, _made(target, name, brought[0].spec.summary), rest
        if name in self.registry.kinds:
            from tk.cli import kinds

            return name, _group(kinds.make(self.registry.kind(name)), name), rest
        return super().resolve_command(ctx, args)


def _nothing() -> None:
    """Never run: `resolve_command` puts the real command in its place."""


def _made(function: Callable[..., Any], name: str, text: str) -> Any:
    sub = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    sub.command(name, help=text)(function)
    return typer.main.get_command(sub)


def _group(sub: typer.Typer, name: str) -> Any:
    command = typer.main.get_group(sub)
    command.name = name
    return command


app = typer.Typer(
    cls=TkGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Fine-tune, align, evaluate, export and serve language models. Every part is a plugin.",
)


def _version(value: bool) -> None:
    if value:
        print(f"tk {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


__all__ = ["TkError", "app"]
