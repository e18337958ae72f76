"""Poly-1 against the paper's formula on logits, in double precision."""

import pytest
import torch
from acme_tk_poly.loss import Poly1
from acme_tk_poly.options import Poly1Options
from torch.nn import functional as F


def sums_by_row(values):
    return values.new_zeros(3).index_add(0, torch.tensor([0, 0, 1, 1, 1, 2]), values)


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 0.5, 2.0])
def test_values_and_gradients_are_the_papers(epsilon):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.tensor([1, 3, 0, 10, 5, 5])
    weights = torch.tensor([1.0, 0.5, 1.0, 0.0, 2.0, 1.0], dtype=torch.float64)

    p = F.softmax(logits, -1)[torch.arange(6), targets]
    reference = sums_by_row(weights * (F.cross_entropy(logits, targets, reduction="none") + epsilon * (1 - p)))
    wanted = torch.autograd.grad(reference.sum(), logits)[0]

    logps = F.log_softmax(logits, -1)[torch.arange(6), targets]
    found = Poly1(Poly1Options(epsilon))({"logps": logps}, {"token_weights": weights}, sums_by_row)
    torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), logits)[0], wanted, rtol=1e-12, atol=1e-12)
