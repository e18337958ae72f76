"""InfoNCE and its gradient equal those of its formula written out in float64, whatever its options."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tk_embedding_losses.info_nce import InfoNce
from tk_embedding_losses.options import InfoNceOptions


def vectors_of(shapes: list[int], width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of queries with a positive and `n` negatives each, and what each text is."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.tensor([part for negatives in shapes for part in range(2 + negatives)])
    return torch.randn(len(parts), width, dtype=torch.float64, generator=generator), parts


def by_hand(vectors: torch.Tensor, parts: torch.Tensor, options: InfoNceOptions) -> list[torch.Tensor]:
    """One query after another, one passage after another."""
    queries = [i for i, part in enumerate(parts) if part == 0]
    passages = [i for i, part in enumerate(parts) if part > 0]
    totals = [torch.zeros((), dtype=torch.float64)] * len(queries)
    dims = options.dims or (vectors.shape[1],)

    def cosine(i: int, j: int, dim: int) -> torch.Tensor:
        a, b = vectors[i, :dim], vectors[j, :dim]
        return a @ b / (a.norm() * b.norm())

    def entropy(own: torch.Tensor, all_: list[torch.Tensor]) -> torch.Tensor:
        return (torch.stack(all_) / options.temperature).logsumexp(0) - own / options.temperature

    for dim, (number, q) in itertools.product(dims, enumerate(queries)):
        own = cosine(q, q + 1, dim)
        kept = [
            c
            for p in passages
            if (c := cosine(q, p, dim)) <= own + (options.margin if options.margin is not None else 9) or p == q + 1
        ]
        value = entropy(own, kept)
        if options.symmetric:
            value = (value + entropy(own, [cosine(other, q + 1, dim) for other in queries])) / 2
        totals[number] = totals[number] + value / len(dims)
    return totals


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([(), (8,), (3, 8)]),
    st.sampled_from([None, 0.0, 0.2]),
    st.integers(0, 99),
)
def test_it_equals_the_formula(shapes, symmetric, dims, margin, seed) -> None:
    options = InfoNceOptions(0.2, dims, symmetric, margin)
    vectors, parts = vectors_of(shapes, 8, seed)
    vectors.requires_grad_()
    found = InfoNce(options)({"pooled": vectors}, {"parts": parts}, lambda values: values)
    expected = torch.stack(by_hand(vectors, parts, options))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    weights = torch.arange(1, len(found) + 1, dtype=torch.float64)
    gradients = [torch.autograd.grad((values * weights).sum(), vectors)[0] for values in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_gradients_are_finite_also_where_negatives_are_masked() -> None:
    vectors, parts = vectors_of([2, 2], 8, 0)
    vectors.requires_grad_()
    loss = InfoNce(InfoNceOptions(0.05, margin=-0.5))
    loss({"pooled": vectors}, {"parts": parts}, lambda values: values).sum().backward()
    assert vectors.grad is not None
    assert bool(vectors.grad.isfinite().all())
