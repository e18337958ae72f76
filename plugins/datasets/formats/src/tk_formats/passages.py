"""Queries with passages, for embedding models and rerankers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.sample import Sample
from tk_formats.media import with_media
from tk_formats.rows import extras, need, text
from tk_formats.turns import as_list, type_of

QUERIES = ("anchor", "query", "question")
POSITIVES = ("positive", "passage", "document")
READ = (*QUERIES, *POSITIVES, "negative", "negatives", "label")


class Passages:
    """{"anchor" or "query", "positive", "negative" or "negatives"} (sentence-transformers): texts; negatives one or several."""

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        query, positive = (_first(row, names) for names in (QUERIES, POSITIVES))
        return Sample(
            text=text(row, query, empty=False),
            passages=(text(row, positive, empty=False), *_negatives(row)),
            label=row.get("label"),
            extras=extras(row, *READ),
        )


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in row), names[0])
    need(row, found)
    return found


def _negatives(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row.get("negative") is not None:
        return (text(row, "negative", empty=False),)
    given = row.get("negatives")
    found = as_list(given, "negatives") if given is not None else ()
    for i, passage in enumerate(found):
        if not isinstance(passage, str) or not passage.strip():
            raise ValueError(f"negatives[{i}] must be text, not {type_of(passage)}")
    return tuple(found)
