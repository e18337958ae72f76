"""Rows as tensors: which positions predict what, however rows are laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.contracts import Batch, Example, Layout
from tk_tensor.collate import collate_tokens, reduce_for

LAYOUTS = {
    "right": Layout(pad_id=0),
    "left": Layout(pad_id=0, side="left"),
    "packed": Layout(pad_id=0, packing=True),
    "wide": Layout(pad_id=0, multiple=8),
}


def example(ids: list[int], weights: list[float]) -> Example:
    arrays = {"ids": np.array(ids, np.int32), "weights": np.array(weights, np.float32)}
    return Example(len(ids), arrays, {}, "")


def predictions(rows: list[list[Example]], layout: Layout) -> list[tuple[int, int, int, int, float]]:
    """(sample, position in it, token there, token predicted, weight), as a model would see them."""
    inputs, fields, _, _ = collate_tokens(rows, layout)
    ids, positions = inputs["input_ids"].reshape(-1), inputs["position_ids"].reshape(-1)
    columns = (
        fields["rows"],
        positions[fields["select"]],
        ids[fields["select"]],
        fields["targets"],
        fields["token_weights"],
    )
    return list(zip(*(c.tolist() for c in columns), strict=True))


samples = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)


@given(samples=samples, name=st.sampled_from(sorted(LAYOUTS)), split=st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_each_trained_token_is_predicted_from_the_one_before_it(
    samples: list[list[tuple[int, float]]], name: str, split: int
) -> None:
    layout = LAYOUTS[name]
    made = [example([i for i, _ in s], [w for _, w in s]) for s in samples]
    rows = [made[:split], made[split:]] if layout.packing and made[split:] else [[e] for e in made]
    rows = [made] if layout.packing and not made[split:] else rows
    wanted = [
        (r, t - 1, s[t - 1][0], s[t][0], s[t][1]) for r, s in enumerate(samples) for t in range(1, len(s)) if s[t][1]
    ]
    found = predictions(rows, layout)
    assert [f for f in found if f[4]] == wanted
    assert len(found) == max(1, len(wanted))


def test_left_padding_counts_positions_from_the_first_token() -> None:
    inputs, fields, samples, tokens = collate_tokens(
        [[example([5, 6, 7], [0, 1, 1])], [example([8, 9], [0, 1])]], LAYOUTS["left"]
    )
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [0, 8, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]]
    assert fields["ends"].tolist() == fields["lasts"].tolist() == [2, 5]
    assert (samples, tokens) == (2, 5)


def test_a_sequence_may_end_with_the_token_that_pads() -> None:
    _, fields, _, _ = collate_tokens([[example([5, 6, 0], [0, 0, 0])], [example([8, 9], [0, 0])]], LAYOUTS["right"])
    assert fields["ends"].tolist() == [1, 4]
    assert fields["lasts"].tolist() == [2, 4]


def test_packed_rows_have_positions_that_start_again_and_no_mask() -> None:
    rows = [[example([5, 6, 7], [0, 1, 1]), example([8, 9], [0, 1])], [example([3, 4], [0, 1])]]
    inputs, fields, samples, tokens = collate_tokens(rows, Layout(pad_id=0, packing=True, multiple=4))
    assert "attention_mask" not in inputs
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4, 5]]
    assert fields["segments"].tolist() == [0, 0, 0, 1, 1, -1, -1, -1, 2, 2, -1, -1, -1, -1, -1, -1]
    assert fields["lengths"].tolist() == [3, 2, 2]
    assert fields["ends"].tolist() == [2, 4, 9]
    assert (samples, tokens) == (3, 7)


def test_a_batch_with_nothing_to_train_selects_one_position_that_counts_for_nothing() -> None:
    _, fields, _, _ = collate_tokens([[example([5, 6], [1, 0])]], LAYOUTS["left"])
    assert fields["select"].tolist() == [0]
    assert fields["token_weights"].tolist() == [0.0]


def test_several_examples_in_a_padded_row_are_refused() -> None:
    with pytest.raises(ValueError, match="does not pack"):
        collate_tokens([[example([1], [0]), example([2], [0])]], LAYOUTS["right"])


def test_sums_by_sample_are_differentiable() -> None:
    batch = Batch({}, {"rows": torch.tensor([0, 2, 2])}, {}, rows=3)
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    sums = reduce_for(batch)(values)
    assert sums.tolist() == [1.0, 0.0, 5.0]
    (sums * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [1.0, 100.0, 100.0]
