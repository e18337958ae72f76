"""The batches of a window on all ranks as one: what a loss is given whose rows see each other (scope "window")."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tk.contracts import Batch, Pass, Rows, World
from tk.errors import TkError
from tk_parallel.processes import exchange

Outputs = Mapping[str, Rows]
Gather = Callable[[Tensor], list[Tensor]]
"""A tensor of every rank that has rows of its own, in rank order (Strategy.gather, where these are all)."""
Spans = dict[tuple[str, str], slice]
"""Where a micro-batch's values stand among the joined ones, by pass and statistic."""


def joined_outputs(
    gather: Gather, world: World, passes: Sequence[Pass], window: Sequence[Batch], outputs: Sequence[Outputs]
) -> tuple[dict[str, dict[str, Tensor]], list[Spans]]:
    """Statistics of all ranks joined, as leaves of a graph; and where each own micro-batch's rows stand in them."""
    by_key: dict[str, Pass] = {p.key: p for p in passes}
    leaves: dict[str, dict[str, Tensor]] = {key: {} for key in by_key}
    own: list[Spans] = [{} for _ in window]
    for key, asked in by_key.items():
        for name in sorted(outputs[0][key]):
            parts = [o[key][name][:0] if b.filler else o[key][name] for b, o in zip(window, outputs, strict=True)]
            every = gather(torch.cat(parts))
            leaves[key][name] = torch.cat(every).requires_grad_(asked.grad)
            at = sum(len(part) for part in every[: world.rank])
            for spans, part in zip(own, parts, strict=True):
                spans[key, name] = slice(at, at := at + len(part))
    return leaves, own


def joined_batch(
    gather: Gather, world: World, window: Sequence[Batch], weights: Mapping[str, float], tokens: int = 0
) -> Batch:
    """The window's batches of all ranks as one: tensor fields joined, samples (`rows`) counted through.

    weights, tokens: of all of them.
    """
    counts = [0 if batch.filler else batch.rows for batch in window]
    told = exchange(gather, {"rows": sum(counts), "fields": sorted(_joinable(window[0]))})
    if any(part["fields"] != told[0]["fields"] for part in told):
        raise TkError(f"The ranks' batches have different fields: {[part['fields'] for part in told]}.")
    before = sum(part["rows"] for part in told[: world.rank])
    starts = itertools.accumulate(counts, initial=before)
    shifted = [
        {**b.fields, "rows": b.fields["rows"] + s} if "rows" in b.fields else b.fields
        for b, s in zip(window, starts, strict=False)
    ]
    fields = {
        name: torch.cat(
            gather(torch.cat([f[name][:0] if b.filler else f[name] for b, f in zip(window, shifted, strict=True)]))
        )
        for name in told[0]["fields"]
    }
    return Batch({}, fields, weights, sum(part["rows"] for part in told), tokens)


def _joinable(batch: Batch) -> list[str]:
    return [name for name, value in batch.fields.items() if isinstance(value, Tensor) and value.dim()]
