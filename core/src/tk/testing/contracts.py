"""Does a class have what a protocol asks for? Members by name, and methods that take the protocol's arguments."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol, get_origin


def members(contract: type) -> dict[str, Callable[..., Any] | None]:
    """The protocol's members: its methods, and None for each attribute. Defaults and inherited protocols count."""
    found: dict[str, Callable[..., Any] | None] = {}
    for base in reversed(contract.__mro__):
        if not getattr(base, "_is_protocol", False) or base is Protocol or get_origin(base) is Protocol:
            continue
        found |= dict.fromkeys(inspect.get_annotations(base))
        public = {n: v for n, v in vars(base).items() if inspect.isfunction(v) and not n.startswith("_")}
        special = {n: v for n, v in vars(base).items() if n in ("__call__", "__len__", "__getitem__", "__iter__")}
        found |= public | special
    return found


def missing(target: type, contract: type) -> list[str]:
    """What `target` lacks of the contract, in words; empty where it fits."""
    return list(_missing(target, contract))


def _missing(target: type, contract: type) -> Iterator[str]:
    for name, wanted in members(contract).items():
        if wanted is None:
            if not _has_attribute(target, name):
                yield f"it has no attribute {name!r}"
            continue
        actual = inspect.getattr_static(target, name, None)
        if actual is None or (name == "__call__" and not _defines_call(target)):
            yield f"it has no method {name}{inspect.signature(wanted)}"
        elif inspect.isfunction(actual) and (reason := _refuses(actual, wanted)):
            yield f"{name}{inspect.signature(actual)} does not take {name}{inspect.signature(wanted)}: {reason}"


def _has_attribute(target: type, name: str) -> bool:
    fields = {f.name for f in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else set()
    annotated = any(name in vars(base).get("__annotations__", {}) for base in target.__mro__)
    if name in fields or annotated or hasattr(target, name):
        return True
    # An attribute that only __init__ sets is seen in its code.
    init = vars(target).get("__init__")
    return inspect.isfunction(init) and name in init.__code__.co_names


def _defines_call(target: type) -> bool:
    return any("__call__" in vars(base) for base in target.__mro__)


def _refuses(actual: Callable[..., Any], wanted: Callable[..., Any]) -> str:
    """Why a call in the protocol's form fails, or ""."""
    positional: list[object] = []
    keywords: dict[str, object] = {}
    for parameter in inspect.signature(wanted).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            keywords[parameter.name] = None
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            positional.append(None)
    try:
        inspect.signature(actual).bind(*positional, **keywords)
    except TypeError as error:
        return str(error)
    if inspect.iscoroutinefunction(wanted) and not inspect.iscoroutinefunction(actual):
        return "it must be `async def`"
    return ""
