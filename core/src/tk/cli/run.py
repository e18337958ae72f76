"""The flags of the commands that take a run's config (train, infer, chat, export): its paths.

Dotted flags (`--tuner.rank 8`) are taken out of the arguments before Typer parses the rest; Typer knows them for help
and completion only, so that one resolver says what is wrong with a name or a value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tk.cli import commands
from tk.config.options import Option, options_of
from tk.config.resolve import Resolver, added_options
from tk.config.sections import SCALARS
from tk.errors import TkError
from tk.setup import TRAINED_ON, Given, resolver

Flags = list[tuple[str, str]]

COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (),
    "infer": ("model", "template", "data", "engine", "engines", "rewards", "sampling", "plugins"),
    "embed": ("model", "template", "data", "engine", "plugins"),
    "chat": ("model", "template", "engine", "sampling", "plugins"),
    "serve": ("model", "template", "engine", "sampling", "server", "media", "plugins"),
    "export": ("model", "tuner", "plugins"),
    "data preview": ("model", "template", "data", "method", "plugins"),
}
"""Command -> sections that it shows in help (none named: all)."""


def make(name: str, args: Sequence[str], *, completing: bool = False) -> tuple[Any, list[str]]:
    """The Typer command with the options of the components chosen by `args`, and the arguments left for it."""
    flags, rest = split_flags(args)
    action = getattr(commands, name.replace(" ", "_"))
    own, shared = _declared(action), _declared(_given)
    infos = [p.annotation.__metadata__[0] for p in (*own, *shared)]
    words = {word for info in infos for word in (info.default, *info.param_decls)}  # Typer keeps the first as default
    files = [Path(v) for v in _values(rest, "--config", "-c")]
    run = next((Path(v) for v in reversed(_values(rest, "--run"))), None)
    forget = TRAINED_ON if name in ("infer", "embed") else ()
    named = [*flags, *_sections(rest, words)]
    given = Given(run=run, forget=forget, files=files, flags=named, plugin_files=_values(rest, "--plugin"))
    wants_help = "--help" in rest or completing
    try:
        found = resolver(_readable(given) if wants_help else given)
        parameters = list(_parameters(name, found, full=wants_help))
    except TkError:
        if not wants_help or completing is False:
            raise
        parameters = list(_parameters(name, resolver(Given()), full=True))

    def command(**values: Any) -> None:
        options = {parameter.name: values.pop(parameter.name) for parameter in own}
        action(_given(flags, **values), **options)

    command.__signature__ = inspect.Signature([*own, *shared, *parameters])  # type: ignore[attr-defined]
    sub = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    sub.command(name, help=inspect.getdoc(action))(command)
    return typer.main.get_command(sub), rest


def _declared(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options that a function declares: its keywords. Typer evaluates no annotation of a signature set by hand."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [p.replace(annotation=hints[p.name]) for p in parameters if p.kind is p.KEYWORD_ONLY]


def split_flags(args: Sequence[str]) -> tuple[Flags, list[str]]:
    """Dotted flags with their values, and the other arguments. A flag without a value means true."""
    flags: Flags = []
    rest: list[str] = []
    index = 0
    while index < len(args):
        word = args[index]
        index += 1
        if word == "--":
            return flags, rest + list(args[index - 1 :])
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or "." not in name:
            rest.append(word)
            continue
        if not equals:
            value = "true"
            if index < len(args) and _is_value(args[index]):
                value = args[index]
                index += 1
        flags.append((name, value))
    return flags, rest


def _is_value(word: str) -> bool:
    """Whether an argument is a value: not a flag, or a negative number."""
    return not word.startswith("-") or word[1:2].isdigit() or word[1:2] == "."


def _sections(args: Sequence[str], own: Collection[str]) -> Iterator[tuple[str, str]]:
    """Sections in their short form (--tuner lora): what is no option of the command's own."""
    for index, word in enumerate(args):
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in own or name == "--help":
            continue
        if equals:
            yield name[2:], value
        elif index + 1 < len(args) and _is_value(args[index + 1]):
            yield name[2:], args[index + 1]


def _values(args: Sequence[str], *names: str) -> list[str]:
    """Every value given for an option, in either form."""
    found = []
    for index, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name in names and equals:
            found.append(value)
        elif word in names and index + 1 < len(args):
            found.append(args[index + 1])
    return found


def _readable(given: Given) -> Given:
    """For help: without files that are not there."""
    return Given(
        run=given.run if given.run and given.run.is_dir() else None,
        files=[f for f in given.files if f.is_file()],
        flags=given.flags,
        plugin_files=given.plugin_files,
        environ=given.environ,
    )


def _parameters(name: str, found: Resolver, full: bool) -> Iterator[inspect.Parameter]:
    """Options of the sections: the short form of each, and in help every option of what is chosen."""
    shown = COMMANDS[name] or tuple(found.sections)
    for section in shown:
        of_kind = found.sections.get(section)
        if of_kind is not None:
            kind, names = of_kind.kind, found.registry.names(of_kind.kind.name)
            listed = "|".join(names[:12]) + ("|…" if len(names) > 12 else "")
            more = " Further ones by names of yours." if section == kind.named else ""
            yield _option(section, f"{kind.summary}{more} [{listed}]", completer=_completer(names))
        elif section in (*SCALARS, "data", "eval"):
            short = {"model": "A checkpoint: folder, hub id or short name.", "output": "Folder of the run."}
            names = [n for c in found.registry.all("models") for n in getattr(c.spec, "checkpoints", ())]
            text = short.get(section, f"A file or data set: short for --{section}.sources.{section}.path.")
            yield _option(section, text, completer=_completer(names) if section == "model" else None)
        if full:
            yield from _detailed(section, found)


def _detailed(section: str, found: Resolver) -> Iterator[inspect.Parameter]:
    of_kind = found.sections.get(section)
    if of_kind is None or of_kind.selects == "one":
        for option in found.section_options(section):
            yield _dotted(f"{section}.{option.flag}", option)
        return
    for key, component in found.several(of_kind).items():
        config = component.config()
        for option in (*(options_of(config) if config else ()), *added_options(of_kind.kind)):
            yield _dotted(f"{section}.{key}.{option.flag}", option)


def _dotted(path: str, option: Option) -> inspect.Parameter:
    default = "required" if option.required else f"default: {_shown(option.default)}"
    return _option(path, f"{option.text} [{default}]", metavar=option.shown)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _option(
    path: str, text: str, metavar: str = "NAME", completer: Callable[[str], list[str]] | None = None
) -> inspect.Parameter:
    return inspect.Parameter(
        "_" + path.replace(".", "__").replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            str, typer.Option(f"--{path}", metavar=metavar, help=text, show_default=False, autocompletion=completer)
        ],
    )


def _completer(names: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _given(
    flags: Flags,
    *,
    config: Annotated[list[Path] | None, typer.Option("-c", "--config", help="YAML files; later ones win.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of a run: its config, and what it has trained.")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="A local plugin file; may be repeated.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    **sections: Any,
) -> Given:
    """What the options that all commands have come to. `sections`: short forms as `_<section>`."""
    short = [(key[1:], value) for key, value in sections.items() if value is not None and "__" not in key]
    return Given(run=run, files=config or (), flags=[*short, *flags], plugin_files=plugin or ())
