"""Options as frozen dataclasses: how they are documented, and how the rest of the kernel reads them off.

    @dataclass(frozen=True)
    class LoraOptions:
        rank: Annotated[int, doc("Rank of the update matrices.", gt=0)] = 8

The same dataclass is the YAML section, the flags of `tk train --help`, the JSON schema and the reference page.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec


def doc(text: str, *, secret: bool = False, **bounds: Any) -> msgspec.Meta:
    """One sentence about an option, with bounds that values are held to (gt, ge, lt, le, min_length, pattern).

    secret: a key, a password or a token may stand in it, which nobody sees who is shown the config (tk.config.secret).
    """
    return msgspec.Meta(description=text, extra={_SECRET: True} if secret else None, **bounds)


_SECRET = "secret"


@dataclass(frozen=True)
class Option:
    """A field of an options class. `type` is plain, `annotated` has the bounds; `default` is None for a required one."""

    name: str
    type: Any
    annotated: Any
    default: Any
    required: bool
    text: str
    secret: bool = False

    @property
    def flag(self) -> str:
        return self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """The type in a user's words."""
        return type_name(self.type)


@cache
def options_of(cls: type) -> tuple[Option, ...]:
    """The fields of an options class, in order."""
    return tuple(_options(cls))


def _options(cls: type) -> Iterator[Option]:
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        annotated = kind = hints[field.name]
        text, secret = "", False
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
            metas = [note for note in notes if isinstance(note, msgspec.Meta)]
            text = next((meta.description for meta in metas if meta.description), "")
            secret = any((meta.extra or {}).get(_SECRET) for meta in metas)
            annotated = _bounded(kind, metas)
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Option(field.name, kind, annotated, default, required, text, secret)


def _bounded(kind: Any, metas: list[msgspec.Meta]) -> Any:
    """The type with its bounds where msgspec takes them: on the number or text itself, not on a union around it."""
    if get_origin(kind) in (Union, types.UnionType):
        return Union[tuple(_bounded(arm, metas) for arm in get_args(kind))]  # noqa: UP007
    wanted = _NUMERIC if kind in (int, float) else _SIZED if kind is str or get_origin(kind) in (list, tuple) else ()
    bounds = {b: getattr(meta, b) for meta in metas for b in wanted if getattr(meta, b) is not None}
    return Annotated[kind, msgspec.Meta(**bounds)] if bounds else kind


_NUMERIC = ("gt", "ge", "lt", "le", "multiple_of")
_SIZED = ("pattern", "min_length", "max_length")


def type_name(kind: Any) -> str:
    """A type as help shows it: int, text, true|false, a|b, list of text."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return "|".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(type_name(a) for a in arguments)
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return "{" + ", ".join(names[:2]) + (", …}" if len(names) > 2 else "}")
    if origin is not None and arguments:
        return f"{{name: {type_name(arguments[-1])}}}"
    return {str: "text", bool: "true|false", type(None): "none"}.get(kind, getattr(kind, "__name__", str(kind)))


def accepts(kind: Any, plain: type) -> bool:
    """Whether a value of the plain type (str, bool, list, dict) may stand where `kind` is asked for."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return accepts(arguments[0], plain)
    if origin is Literal:
        return any(isinstance(a, plain) for a in arguments)
    if origin in (Union, types.UnionType):
        return any(accepts(a, plain) for a in arguments)
    if plain is list:
        return origin in (list, tuple) or kind in (list, tuple)
    if plain is dict:
        return (isinstance(origin, type) and issubclass(origin, dict)) or kind is dict or dataclasses.is_dataclass(kind)
    return kind is plain
