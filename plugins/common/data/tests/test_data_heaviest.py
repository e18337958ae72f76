"""The window that takes the most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tk.contracts import Batch, Example, Layout, World
from tk_data.examples import ExampleSet
from tk_data.heaviest import Heaviest
from tk_data.loader import Loader


def loader(lengths: list[int], **settings: Any) -> Loader:
    def collate(rows: Any, layout: Layout) -> Batch:
        sizes = [sum(e.length for e in row) for row in rows]
        return Batch({}, {"size": len(rows) * max(sizes)}, {"loss": 1.0}, len(rows))

    examples = ExampleSet(Example(n, {"ids": np.zeros(n, np.int32)}, {"loss": 1.0}) for n in lengths)
    given = {"batch_size": 4, "micro_batch_size": 2, "world": World(0, 1, "cpu"), **settings}
    layout = Layout(0, packing="max_length" in settings)
    return Loader(examples, collate, layout, **given)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.booleans())
def test_no_window_of_the_epoch_has_a_larger_micro_batch(lengths: list[int], packed: bool) -> None:
    made = loader(lengths, **({"max_length": 64} if packed else {}))
    largest = max(batch.fields["size"] for window in made.windows() for batch in window.batches)
    found = next(iter(Heaviest(made).windows()))
    assert max(batch.fields["size"] for batch in found.batches) == largest


@pytest.mark.parametrize("rank", [0, 1])
def test_it_is_the_window_of_its_rank(rank: int) -> None:
    made = loader([3, 5, 50, 4, 7, 6, 8, 9], world=World(rank, 2, "cpu"), shuffle=False)
    first, again = (window for window, _ in zip(Heaviest(made).windows(), range(2), strict=False))
    assert first.batches == again.batches == next(iter(made.windows())).batches
