"""The schedules equal transformers' over whole runs, and keep to their bounds for any options."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import optimization as reference

from tk_schedules import options as o
from tk_schedules import schedules as s


def _reference(make, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return [make(optimizer).lr_lambdas[0](step) for step in range(total)]


@pytest.mark.parametrize(("total", "warmup"), [(40, 0), (40, 5), (7, 7), (1, 0), (100, 33)])
def test_schedules_equal_those_of_transformers(total: int, warmup: int) -> None:
    decay = -(-total // 10)
    pairs = {
        "constant": (
            s.Constant(o.ConstantOptions(warmup)),
            lambda opt: reference.get_constant_schedule_with_warmup(opt, warmup),
        ),
        "linear": (
            s.linear(o.LinearOptions(warmup)),
            lambda opt: reference.get_linear_schedule_with_warmup(opt, warmup, total),
        ),
        "cosine": (
            s.cosine(o.CosineOptions(warmup)),
            lambda opt: reference.get_cosine_schedule_with_warmup(opt, warmup, total),
        ),
        "cosine with a floor": (
            s.cosine(o.CosineOptions(warmup, min_ratio=0.1)),
            lambda opt: reference.get_cosine_with_min_lr_schedule_with_warmup(opt, warmup, total, min_lr_rate=0.1),
        ),
        "polynomial": (
            s.polynomial(o.PolynomialOptions(warmup, min_ratio=0.2, power=3)),
            lambda opt: reference.get_polynomial_decay_schedule_with_warmup(opt, warmup, total, lr_end=0.2, power=3),
        ),
        "warmup-stable-decay": (
            s.WarmupStableDecay(o.WarmupStableDecayOptions(warmup, decay_ratio=0.1, decay="1-sqrt")),
            lambda opt: reference.get_wsd_schedule(
                opt, warmup, min(decay, total - warmup), num_training_steps=total, decay_type="1-sqrt"
            ),
        ),
    }
    for name, (ours, theirs) in pairs.items():
        assert [ours(step, total) for step in range(total)] == pytest.approx(_reference(theirs, total)), name


@given(
    st.integers(1, 500),
    st.floats(0, 20),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["linear", "cosine", "1-sqrt"]),
)
def test_factors_stay_between_0_and_1_and_end_at_the_floor(total, warmup, floor, decay_ratio, shape) -> None:
    schedule = s.WarmupStableDecay(o.WarmupStableDecayOptions(warmup, floor, decay_ratio, shape))
    factors = [schedule(step, total) for step in range(total + 1)]
    assert all(-1e-12 <= factor <= 1 + 1e-12 for factor in factors)
    assert s.cosine(o.CosineOptions(warmup, floor))(total + 5, total) == pytest.approx(floor)


def test_a_warmup_below_1_is_a_fraction_of_the_run() -> None:
    schedule = s.Constant(o.ConstantOptions(0.25))
    assert [schedule(step, 8) for step in range(4)] == [0, 0.5, 1, 1]
