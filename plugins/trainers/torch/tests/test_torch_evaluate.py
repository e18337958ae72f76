"""Evaluation: a record an example from batched statistics, weighted means, and intervals that cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.contracts import Batch, Example, Layout, Step, Term
from tk_tensor.collate import collate_tokens, reduce_for
from tk_torch.evaluate import Record, split, summary


class Tokens:
    """A token term and a sample term on given statistics."""

    scope = "row"

    def loss(self, outputs: Mapping[str, Any], batch: Batch, reduce: Any) -> Step:
        stats = outputs["policy"]
        tokens = stats["logps"] * batch.fields["token_weights"]
        return Step({"a": Term(tokens.sum()), "b": Term((stats["score"][:, 0] * reduce(tokens)).sum(), 0.5)})


def _example(length: int, seed: int) -> Example:
    made = np.random.default_rng(seed)
    weights = made.integers(0, 2, length) * made.random(length)
    return Example(length, {"ids": made.integers(0, 9, length), "weights": weights}, {})


def _batch(examples: list[Example]) -> Batch:
    inputs, fields, samples, tokens = collate_tokens([[e] for e in examples], Layout(pad_id=0))
    return Batch(inputs, fields, {}, samples, tokens)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_the_sums_of_examples_are_those_of_the_batch_or_it_is_not_split(lengths: list[int], seed: int) -> None:
    examples = [_example(length, seed + i) for i, length in enumerate(lengths)]
    batch, singles = _batch(examples), [_batch([e]) for e in examples]
    generator = torch.Generator().manual_seed(seed)
    stats = {
        "logps": torch.rand(len(batch.fields["rows"]), generator=generator),
        "score": torch.rand(batch.rows, 2, generator=generator),
    }
    whole = Tokens().loss({"policy": stats}, batch, reduce_for(batch))
    steps = split(Tokens(), {"policy": stats}, batch, singles)
    if steps is None:
        # an example without a trained token has a position alone that it has not in the batch
        untrained = any(not single.fields["token_weights"].any() for single in singles)
        assert untrained or len(batch.fields["rows"]) == batch.rows
        return
    for name, term in whole.terms.items():
        assert float(sum(s.terms[name].sum for s in steps)) == pytest.approx(float(term.sum), rel=1e-5, abs=1e-6)
    rows = batch.fields["rows"]
    first = (stats["logps"] * batch.fields["token_weights"])[rows == 0].sum()
    assert float(steps[0].terms["a"].sum) == pytest.approx(float(first), rel=1e-5, abs=1e-6)


def test_a_mean_is_weighted_and_terms_have_their_own_normalisers() -> None:
    records = [
        Record([0], {"a": (2.0, 1.0), "b": (1.0, 4.0)}, {"accuracy": (1.0, 1.0)}),
        Record([1], {"a": (6.0, 3.0), "b": (3.0, 4.0)}, {"accuracy": (0.0, 1.0)}),
    ]
    found = summary(records, {"a": 1.0, "b": 0.5}, resamples=10, seed=0)
    assert found["a"] == pytest.approx(8 / 4)
    assert found["b"] == pytest.approx(4 / 8)
    assert found["loss"] == pytest.approx(2 + 0.25)
    assert found["rows"] == 2
    assert found["accuracy_low"] <= found["accuracy"] == 0.5 <= found["accuracy_high"]


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    made = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        weights = made.integers(1, 5, 60)
        records = [Record([0], {"a": (float(made.normal(3.0) * w), float(w))}, {}) for w in weights]
        found = summary(records, {"a": 1.0}, resamples=200, seed=trial)
        covered += found["loss_low"] <= 3.0 <= found["loss_high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_an_interval_is_the_same_again() -> None:
    records = [Record([i], {"a": (float(i), 1.0)}, {}) for i in range(9)]
    assert summary(records, {"a": 1.0}, 50, seed=1) == summary(records, {"a": 1.0}, 50, seed=1)
    assert summary([], {}, 50, seed=1) == {"rows": 0}
