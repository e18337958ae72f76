"""Columns of a row: what must be there, and what is left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk_formats.turns import type_of


def need(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column that must be there and not null."""
    if column not in row:
        raise ValueError(f"there is no column {column!r} (columns: {', '.join(map(str, row)) or 'none'})")
    if row[column] is None:
        raise ValueError(f"{column} is null")
    return row[column]


def text(row: Mapping[str, Any], column: str, *, empty: bool = True) -> str:
    """The text of a column; "" where it is missing or null and may be (`empty`)."""
    value = row.get(column) if empty else need(row, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{column} must be text, not {type_of(value)}")
    if not empty and not value.strip():
        raise ValueError(f"{column} is empty")
    return value


def extras(row: Mapping[str, Any], *read: str) -> dict[str, Any]:
    """The columns that a format does not read."""
    return {name: value for name, value in row.items() if name not in read}
