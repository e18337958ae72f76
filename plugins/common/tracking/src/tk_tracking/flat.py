"""A config as one level of plain values, as trackers show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Plain = bool | int | float | str


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Plain]:
    """The config as dotted path -> value; lists as text, what is not set left out."""
    found: dict[str, Plain] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        elif isinstance(value, bool | int | float | str):
            found[path] = value
        elif value is not None:
            found[path] = json.dumps(value, default=str)
    return found
