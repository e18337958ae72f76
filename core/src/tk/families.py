"""Which model family a checkpoint belongs to: from short names, its config.json and id patterns, without loading it."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from tk.errors import TkError, UsageError
from tk.registry import Component, Registry
from tk.specs import ModelSpec


def family_of(registry: Registry, name: str) -> Component:
    """The family for a checkpoint: folder, hub id or short name.

    A short name decides; else config.json's architectures and model type; else id patterns; else the fallback family.
    Raises UsageError where two families match equally, naming both, and where none does.
    """
    facts = _facts(name)
    own = [c for c in registry.all("models") if not _spec(c).fallback]
    for matching in (_by_short_name, _by_config, _by_id):
        found = [c for c in own if matching(_spec(c), name, facts)]
        if len(found) > 1:
            names = " and ".join(f"{c.name!r} ({c.distribution})" for c in found)
            raise UsageError(f"model: {name!r} matches two families, {names}: choose one with --model.family.")
        if found:
            return found[0]
    fallback = [c for c in registry.all("models") if _spec(c).fallback]
    if len(fallback) == 1:
        return fallback[0]
    if fallback:
        names = " and ".join(f"{c.name!r} ({c.distribution})" for c in fallback)
        raise UsageError(f"model: {name!r} matches no family, and {names} are both fallbacks: give --model.family.")
    raise UsageError(
        f"model: no installed family matches {name!r}: pip install tk-plugin-auto, or give --model.family."
    )


def _spec(component: Component) -> ModelSpec:
    return cast(ModelSpec, component.spec)


def _facts(name: str) -> dict[str, Any]:
    """config.json of a local folder; {} for what is not one."""
    path = Path(name) / "config.json"
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TkError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise TkError(f"{path}: a checkpoint's config is a JSON object, not {type(loaded).__name__}.")
    return loaded


def _by_short_name(spec: ModelSpec, name: str, _facts: dict[str, Any]) -> bool:
    return name in spec.checkpoints


def _by_config(spec: ModelSpec, _name: str, facts: dict[str, Any]) -> bool:
    architectures = facts.get("architectures") or ()
    known = any(a in spec.matches.architectures for a in architectures)
    return known or facts.get("model_type") in spec.matches.model_types


def _by_id(spec: ModelSpec, name: str, facts: dict[str, Any]) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in spec.matches.ids)
