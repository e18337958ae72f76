"""The losses hold what is asked of every loss, and have the limits that their papers give."""

import math

import pytest
import torch

from tk_conformance.losses import check_loss
from tk_preference_losses.bco_pair import BcoPair
from tk_preference_losses.hinge import Hinge
from tk_preference_losses.ipo import Ipo
from tk_preference_losses.options import HingeOptions, IpoOptions, SigmoidOptions
from tk_preference_losses.sigmoid import Sigmoid

ROWS = torch.tensor([0, 0, 1, 1, 1])
"""A pair: a chosen answer of two tokens, a rejected one of three."""


def value(loss, chosen, rejected):
    """The loss of a pair whose answers have these log-ratios."""
    ratios = torch.tensor([chosen, 0.0, rejected, 0.0, 0.0], dtype=torch.float64)
    stats = {"logps": ratios - 3.0, "reference.logps": torch.full_like(ratios, -3.0)}
    fields = {"rows": ROWS, "token_weights": torch.ones_like(ratios)}
    (found,) = loss(stats, fields, lambda v: v.new_zeros(2).index_add(0, ROWS, v)).tolist()
    return found


@pytest.mark.parametrize("loss", [Sigmoid(), Sigmoid(SigmoidOptions(0.3, 0.2)), Ipo(), Hinge(), BcoPair()])
def test_one_finite_value_a_pair(loss):
    check_loss(loss)


def test_at_the_reference():
    assert value(Sigmoid(), 0, 0) == pytest.approx(math.log(2))
    assert value(Ipo(IpoOptions(0.1)), 0, 0) == pytest.approx(25)
    assert value(Hinge(), 0, 0) == pytest.approx(1)
    assert value(BcoPair(), 0, 0) == pytest.approx(2 * math.log(2))


def test_margins_that_are_aimed_at():
    assert value(Ipo(IpoOptions(0.5)), 2, 0) == pytest.approx(0)  # one nat a token
    assert value(Hinge(HingeOptions(0.5)), 1, -1) == pytest.approx(0)
    assert value(Sigmoid(), 300, -300) == pytest.approx(0, abs=1e-9)


def test_label_smoothing_mixes_both_orders():
    plain, smooth = Sigmoid(SigmoidOptions(0.5)), Sigmoid(SigmoidOptions(0.5, 0.1))
    assert value(smooth, 2, -1) == pytest.approx(0.9 * value(plain, 2, -1) + 0.1 * value(plain, -1, 2))
