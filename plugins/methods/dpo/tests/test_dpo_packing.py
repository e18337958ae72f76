"""Packed pairs: no row is longer than it may be, whether or not the model can share a pair's prompt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.contracts import Layout, Limit, World
from tk.errors import DataError
from tk_conformance.parity import Numbers, of_numbers
from tk_data.examples import ExampleSet
from tk_data.loader import Loader
from tk_dpo.method import Dpo
from tk_dpo.options import DpoOptions
from tk_preference_losses.sigmoid import Sigmoid

METHOD = Dpo(DpoOptions(), {"sigmoid": (1.0, Sigmoid())})
PACKED = Layout(pad_id=0, packing=True)


def loader(shapes: list[tuple[int, int, int]], layout: Layout, room: int, **world: int) -> Loader:
    """Pairs with so many tokens of prompt, chosen and rejected answer; the ids of pair i are i + 1."""
    samples = [of_numbers([i] * p, [i] * c, [i] * (r + (c == r))) for i, (p, c, r) in enumerate(shapes, 1)]
    encoded = METHOD.encode(samples, Numbers(), Limit())
    examples = ExampleSet(example for own in encoded for example in own)
    seat = World(world.get("rank", 0), world.get("size", 1), "cpu")
    return Loader(examples, METHOD.collate, layout, batch_size=4, micro_batch_size=2, world=seat, max_length=room)


@settings(max_examples=100, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12),
    share=st.booleans(),
    room=st.integers(53, 90),
    size=st.integers(1, 3),
)
def test_rows_keep_within_their_length_and_hold_each_pair_once(
    shapes: list[tuple[int, int, int]], share: bool, room: int, size: int
) -> None:
    layout = Layout(pad_id=0, packing=True, shared_prefix=share)
    pairs: Counter[int] = Counter()
    for rank in range(size):
        for window in loader(shapes, layout, room, rank=rank, size=size).windows():
            for batch in (b for b in window.batches if not b.filler):
                assert batch.inputs["input_ids"].shape[1] <= room
                assert not ("branches" in batch.inputs and not share)
                pairs.update(batch.fields["targets"].tolist())
    answers = {i: c + r + (c == r) for i, (_, c, r) in enumerate(shapes, 1)}
    assert pairs == answers  # each token of each answer is trained once


def test_long_prompts_are_shared_in_every_row_and_short_ones_in_none() -> None:
    def layouts(shape: tuple[int, int, int]) -> set[bool]:
        made: Any = loader([shape] * 6, Layout(pad_id=0, packing=True, shared_prefix=True), 60)
        return {"branches" in batch.inputs for window in made.windows() for batch in window.batches}

    assert layouts((20, 2, 3)) == {True}
    assert layouts((4, 8, 9)) == {False}


def test_a_pair_that_no_row_has_room_for_is_named() -> None:
    shapes = [(9, 2, 3), (30, 8, 9)]
    with pytest.raises(DataError, match=r"takes 77 tokens of a packed row, its beginning once for each.*max_length 64"):
        loader(shapes, PACKED, 64)
    assert len(loader(shapes, PACKED, 77))
    assert len(loader(shapes, Layout(pad_id=0, packing=True, shared_prefix=True), 64))
