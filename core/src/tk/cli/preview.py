"""Previewed rows as a table, as JSON, and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from tk.preview import Laid, PreviewRow, Shown, Token

COLUMNS: Mapping[str, str] = {
    "row": "ROW",
    "tokens": "TOKENS",
    "trained": "TRAINED",
    "media": "MEDIA",
    "label": "LABEL",
    "text": "TEXT",
}

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Preview of $count rows</title><style>
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1b1f27; --soft: #5d6675; --line: #e3e6eb;
  --trained: #cfe8d8; --shared: #eceff4; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1a1e26; --ink: #e6e9ef; --soft: #98a1b1;
  --line: #2b313c; --trained: #1f4a36; --shared: #262c37; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 15px; margin: 0 0 8px; overflow-wrap: anywhere; }
h3 { font-size: 13px; margin: 12px 0 4px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 8px; } .soft { color: var(--soft); font-size: 13px; } .bad { color: var(--bad); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px; margin-top: 14px; }
.both { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 20px; }
.tokens { font: 13px/1.9 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens span { border-radius: 3px; box-shadow: inset 0 0 0 1px var(--line); padding: 2px 0; }
.tokens .t { background: var(--trained); } .tokens .s { background: var(--shared); } .tokens .m { font-weight: 700; }
.tag { display: inline-block; padding: 0 9px; border-radius: 99px; font-size: 12.5px; background: var(--shared); margin-right: 6px; }
figure { display: inline-block; margin: 8px 14px 0 0; max-width: 100%; vertical-align: top; }
img { display: block; max-width: 100%; max-height: 320px; border: 1px solid var(--line); }
figcaption { font-size: 12.5px; color: var(--soft); overflow-wrap: anywhere; }
</style></head><body><main><h1>Preview</h1>
<p class="soft">$count rows as a run would train on them. <span class="tag" style="background: var(--trained)">trained</span>
<span class="tag">shared by both sequences</span> Each box is a token.</p>
$rows
</main></body></html>
""")


def lines(rows: Sequence[PreviewRow]) -> list[dict[str, Any]]:
    """A line for each sequence of each row, for the terminal."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row.problem:
            found.append({"row": row.origin, "text": f"error: {row.problem}"})
        for number, laid in enumerate(row.sequences):
            name = f"{laid.name}: " if laid.name else ""
            found.append(
                {
                    "row": "" if number else row.origin,
                    "tokens": laid.length,
                    "trained": laid.trained,
                    "media": "" if number or not row.media else len(row.media),
                    "label": "" if number or row.label is None else row.label,
                    "text": name + _gist(laid),
                }
            )
    return found


def _gist(laid: Laid) -> str:
    """The end of what stands before the first trained token, and what is trained."""
    first = next((i for i, token in enumerate(laid.tokens) if token.weight), len(laid.tokens))
    before, trained = (
        " ".join("".join(token.text for token in part).split())
        for part in (laid.tokens[:first], [token for token in laid.tokens if token.weight])
    )
    cut = before if len(before) <= 48 else "…" + before[-47:]
    return f"{cut} » {trained}" if trained else cut


def plain(rows: Sequence[PreviewRow]) -> list[dict[str, Any]]:
    """JSON-able, pictures left out."""
    return [
        {
            "origin": row.origin,
            "problem": row.problem or None,
            "sequences": [_plain_sequence(laid) for laid in row.sequences],
            "shared": row.shared,
            "label": row.label,
            "tools": list(row.tools),
            "media": [{"type": m.type, "source": m.source, "size": list(m.size)} for m in row.media],
            "columns": dict(row.columns),
        }
        for row in rows
    ]


def _plain_sequence(laid: Laid) -> dict[str, Any]:
    return {
        "name": laid.name,
        "length": laid.length,
        "trained": laid.trained,
        "tokens": [[t.text, t.weight] if t.repeated == 1 else [t.text, t.weight, t.repeated] for t in laid.tokens],
    }


def page(rows: Sequence[PreviewRow]) -> str:
    return _PAGE.substitute(count=len(rows), rows="\n".join(map(_section, rows)))


def _section(row: PreviewRow) -> str:
    parts = [f"<h2>{escape(row.origin)}</h2>"]
    if row.problem:
        parts.append(f'<p class="bad">{escape(row.problem)}</p>')
    tags = [f"label: {row.label}"] if row.label is not None else []
    tags += [f"tool: {name}" for name in row.tools]
    tags += [f"{name}: {str(value)[:60]}" for name, value in row.columns.items()]
    parts += [f'<span class="tag">{escape(tag)}</span>' for tag in tags]
    parts += map(_figure, row.media)
    parts.append('<div class="both">')
    for laid in row.sequences:
        about = f"{laid.length} tokens, {laid.trained} trained"
        shown = "".join(_tokens(laid.tokens, row.shared))
        title = f"{laid.name} · {about}" if laid.name else about
        parts.append(f'<div><h3>{escape(title)}</h3><div class="tokens">{shown}</div></div>')
    return "<section>" + "\n".join([*parts, "</div></section>"])


def _tokens(tokens: Sequence[Token], shared: int) -> Iterator[str]:
    at = 0
    for token in tokens:
        kinds = [k for k, holds in (("t", token.weight), ("s", at < shared), ("m", token.repeated > 1)) if holds]
        at += token.repeated
        text = escape(token.text).replace("\n", "↵\n") + (f" ×{token.repeated}" if token.repeated > 1 else "")
        weight = f' title="weight {token.weight:g}"' if token.weight not in (0.0, 1.0) else ""
        yield f'<span class="{" ".join(kinds)}"{weight}>{text}</span>' if kinds else f"<span>{text}</span>"


def _figure(medium: Shown) -> str:
    size = "×".join(map(str, reversed(medium.size[-2:])))
    frames = f"{medium.size[0]} frames of " if len(medium.size) > 2 else ""
    caption = f"<figcaption>{escape(medium.type)}, {frames}{size} pixels: {escape(medium.source)}</figcaption>"
    data = base64.b64encode(medium.seen).decode()
    image = f'<img alt="{escape(medium.type)} as the model sees it" src="data:image/png;base64,{data}">' if data else ""
    return f"<figure>{image}{caption}</figure>"
