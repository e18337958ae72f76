"""Held-out examples as batches: every one exactly once over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tk.contracts import Batch, Layout, World
from tk_data.background import made_ahead
from tk_data.examples import ExampleSet
from tk_data.loader import Collate, filler


def eval_plan(lengths: Sequence[int], batch_size: int, world: int) -> list[list[list[int]]]:
    """Examples of each batch of each rank, like lengths together: `plan[rank][batch]`; empty ones are to be filled."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    batches += [[] for _ in range(-len(batches) % world)]
    return [batches[rank::world] for rank in range(world)]


def eval_batches(
    examples: ExampleSet, collate: Collate, layout: Layout, batch_size: int, world: World, workers: int = 1
) -> Iterator[tuple[Batch, Sequence[int]]]:
    """This rank's batches with the indices of their examples; as many on every rank.

    Row r of a batch is example `indices[r]`. A filler has no indices. Rows hold one example each, packed layout or not.
    workers: threads that make them ahead.
    """
    plain = replace(layout, packing=False)

    def made(indices: Sequence[int]) -> tuple[Batch, Sequence[int]]:
        if indices:
            return collate([[examples[i]] for i in indices], plain), indices
        shortest = int(examples.lengths.argmin())
        return filler(collate([[examples[shortest]]], plain)), ()

    plan = eval_plan(examples.lengths.tolist(), batch_size, world.size)[world.rank]
    return made_ahead(made, plan, workers)
