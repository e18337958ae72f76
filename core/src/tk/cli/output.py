"""What commands print: aligned tables for people, JSON for machines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """A JSON document. Dataclasses, paths and sets are written plainly."""
    import msgspec

    return json.dumps(msgspec.to_builtins(value, enc_hook=_plain), indent=2, ensure_ascii=False)


def as_json_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSON array on standard output, a row a line, each printed as it comes."""
    before = "[\n"
    for row in rows:
        print(before + json.dumps(row, ensure_ascii=False), end="", flush=True)
        before = ",\n"
    print("[]" if before.startswith("[") else "\n]")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], empty: str = "None.") -> None:
    """Rows under headings (key -> heading), each line cut to the width of the terminal where there is one."""
    if not rows:
        print(empty)
        return
    cells = [[str(row.get(key, "")) for key in columns] for row in rows]
    headings = list(columns.values())
    widths = [max(len(heading), *(len(line[i]) for line in cells)) for i, heading in enumerate(headings)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in [headings, *cells]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        print(text if room is None or len(text) <= room else text[: room - 1] + "…")


def _plain(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return str(value)
