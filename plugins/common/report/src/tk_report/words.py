"""Figures and markup in the form that the page shows them. Every text that enters the page goes through `esc`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tk_report.reading import number


def esc(value: Any) -> str:
    """A value as text that no browser reads as markup."""
    return escape("" if value is None else str(value), quote=True)


def count(value: Any) -> str:
    """1234567 -> 1,234,567; "–" for no number."""
    found = number(value)
    return "–" if found is None else f"{found:,.0f}"


def large(value: Any) -> str:
    """134515008 -> 134.5 M."""
    found = number(value)
    if found is None:
        return "–"
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e4)):
        if abs(found) >= size:
            return f"{found / (1e3 if unit == 'K' else size):.1f}\u00a0{unit}"
    return f"{found:,.0f}"


def figure(value: Any) -> str:
    """A loss or metric with four significant places."""
    found = number(value)
    if found is None:
        return "–" if value is None else esc(value)
    return f"{found:.4f}" if 1e-3 <= abs(found) < 1e4 or found == 0 else f"{found:.3e}"


def duration(value: Any) -> str:
    """Seconds as 850 ms, 12.3 s, 4 min 05 s or 2 h 10 min."""
    found = number(value)
    if found is None:
        return "–"
    if found < 1:
        return f"{found * 1e3:.0f} ms"
    if found < 90:
        return f"{found:.1f} s"
    if found < 5400:
        return f"{int(found) // 60} min {int(found) % 60:02d} s"
    return f"{int(found) // 3600} h {int(found) % 3600 // 60:02d} min"


def size(value: Any) -> str:
    """Bytes as MB or GB."""
    found = number(value)
    if not found:
        return "–"
    return f"{found / 1e9:.2f} GB" if found >= 1e9 else f"{found / 1e6:.0f} MB"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of cells that are markup already. numeric: columns that are set to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if index in numeric else f"<{tag}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    top = f"<thead><tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>' if body else ""


def pairs(values: Mapping[str, Any]) -> str:
    """A two-column table of names and values."""
    rows = [
        (f'<span class="soft">{esc(name)}</span>', f"<code>{esc(_inline(value))}</code>")
        for name, value in values.items()
    ]
    return table((), rows)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def yaml(value: Any, indent: int = 0) -> str:
    """A config as YAML, for reading; texts that YAML would take for something else are quoted."""
    pad = "  " * indent
    if isinstance(value, Mapping):
        lines = []
        for name, inner in value.items():
            nested = isinstance(inner, Mapping) and inner
            lines.append(f"{pad}{name}:\n{yaml(inner, indent + 1)}" if nested else f"{pad}{name}: {yaml(inner)}")
        return "\n".join(lines) or "{}"
    if isinstance(value, str):
        plain = value and value.replace("-", "").replace("_", "").replace("/", "").replace(".", "").isalnum()
        safe = (
            plain
            and not value[0].isdigit()
            and value.lower() not in ("true", "false", "null", "yes", "no", "on", "off")
        )
        return value if safe else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)
