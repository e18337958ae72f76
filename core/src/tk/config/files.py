"""Writing a config as YAML, and the JSON schema that an editor checks it with."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import msgspec

from tk.config.options import Option, options_of
from tk.config.resolve import Config, added_options
from tk.config.sections import FIXED, SCALARS
from tk.config.tree import Key
from tk.registry import Registry
from tk.specs import KindSpec


def to_yaml(tree: Mapping[str, Any]) -> str:
    """A resolved config as YAML 1.2, to be read back as it was."""
    from ruamel.yaml import YAML

    writer = YAML(typ="rt", pure=True)
    writer.width = 4096
    stream = io.StringIO()
    writer.dump(msgspec.to_builtins(tree), stream)
    return stream.getvalue()


def listed(config: Config) -> list[dict[str, Any]]:
    """Every value of a resolved config with where it came from: `path`, `value`, `origin` ("default" for defaults)."""
    found: list[dict[str, Any]] = []

    def walk(path: Key, node: Any) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in node.items():
                walk((*path, key), value)
        else:
            found.append({"path": ".".join(path), "value": node, "origin": _origin(config, path)})

    walk((), config.tree)
    return found


def _origin(config: Config, path: Key) -> str:
    """A leaf's own origin; a default where nobody set it or a list or mapping around it as a whole."""
    if path in config.origins:
        return config.origins[path]
    for end in range(len(path) - 1, 0, -1):
        origin = config.origins.get(path[:end], "")
        if origin and not any(p[:end] == path[:end] and len(p) > end for p in config.origins):
            return origin if _within(config, path[:end]) else "default"
    return "default"


def _within(config: Config, path: Key) -> bool:
    """Whether what was set at `path` is a short form, which sets all that stands there."""
    return not isinstance(config.tree.get(path[0]), Mapping)


def schema(registry: Registry) -> dict[str, Any]:
    """JSON schema (2020-12) of a run's config with every installed component's options."""
    defs: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for section, cls in FIXED.items():
        own = _object(options_of(cls), defs)
        if section == "model":
            own = _with_families(registry, own, defs)
        properties[section] = {"anyOf": [own, {"type": "string"}]} if section in {*SCALARS, "data", "eval"} else own
    for kind in registry.kinds.values():
        for section, selects in kind.sections.items():
            properties[section] = _kind_schema(registry, kind, selects, defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tk run config",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": defs,
    }


def _with_families(registry: Registry, own: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    for component in registry.all("models"):
        config = component.config()
        if config:
            extra.update(_object(options_of(config), defs)["properties"])
    return {**own, "properties": {**extra, **own["properties"]}}


def _kind_schema(registry: Registry, kind: KindSpec, selects: str, defs: dict[str, Any]) -> dict[str, Any]:
    components = registry.all(kind.name)
    options = {c.name: options_of(config) if (config := c.config()) else () for c in components}
    texts = {c.name: c.spec.summary for c in components}
    if selects in ("one", "named"):
        choices = [
            {
                **_object(options[name], defs, {"name": {"const": name, "description": texts[name]}}),
                "required": ["name"] if name != kind.default else [],
            }
            for name in options
        ]
        one = {"anyOf": [{"enum": sorted(options)}, *choices], "description": kind.summary}
        return one if selects == "one" else {"type": "object", "additionalProperties": one}
    added, weighted = added_options(kind), selects == "weighted"
    entries = {
        name: {
            "anyOf": [_object(fields + added, defs), {"type": ["number" if weighted else "boolean", "null"]}],
            "description": texts[name],
        }
        for name, fields in options.items()
    }
    return {
        "description": kind.summary,
        "anyOf": [
            {"type": "object", "properties": entries, "additionalProperties": False},
            {"type": "string"},
            {"type": "array", "items": {"enum": sorted(options)}},
        ],
    }


def _object(
    options: tuple[Option, ...], defs: dict[str, Any], first: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    properties: dict[str, Any] = dict(first or {})
    for option in options:
        made = {**_value(option.annotated, defs), **({"description": option.text} if option.text else {})}
        if not option.required:
            made = {**made, "default": msgspec.to_builtins(option.default)}
        properties[option.name] = made
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(kind: Any, defs: dict[str, Any]) -> dict[str, Any]:
    """Schema of one value; nested options are objects of their own."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object(options_of(kind), defs)
    if get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[-1]):
        inner = _value(get_args(kind)[-1], defs)
        return {"type": "object", "additionalProperties": {"anyOf": [inner, {"type": "string"}]}}
    (made,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    defs.update(components)
    return dict(made)


def is_options(cls: Any) -> bool:
    """Whether a class can hold options: a frozen dataclass."""
    return dataclasses.is_dataclass(cls) and bool(getattr(cls, "__dataclass_params__").frozen)  # noqa: B009
