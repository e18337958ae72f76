"""Gradients are those of the sum over ranks; the state of any optimizer goes into a checkpoint and comes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tk.errors import TkError
from tk_ddp.options import DdpOptions
from tk_ddp.strategy import Ddp
from tk_parallel.testing import run_processes


def test_two_processes_sum_their_gradients_and_stay_together() -> None:
    done = run_processes(Path(__file__).with_name("ddp_checks.py"), world=2)
    assert all(p.stdout.strip() == "checked" for p in done)


def _net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _train(strategy: Ddp, module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        strategy.backward(module(x).float().square().sum())
        strategy.step(module, optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.Adafactor(p, lr=1e-2),
        lambda p: torch.optim.SGD(p, lr=1e-2),
        lambda p: torch.optim.ASGD(p, lr=1e-2),
    ],
    ids=["adamw", "sgd-momentum", "adafactor", "sgd", "asgd"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_goes_on_bit_by_bit_from_saved_weights_and_state(
    make: Callable[..., torch.optim.Optimizer], precision: str
) -> None:
    strategy = Ddp(DdpOptions())
    strategy.start()
    net = _net()
    module, optimizer = strategy.wrap(net, precision, lambda: make(net.parameters()), 0.5)
    _train(strategy, module, optimizer, range(3))
    weights = {n: v.clone() for n, v in strategy.weights(module, trainable=True)}
    state = {n: v.clone() for n, v in strategy.optimizer_state(module, optimizer).items()}
    assert set(weights) == {n for n, _ in _net().named_parameters()}
    _train(strategy, module, optimizer, range(3, 5))

    again = Ddp(DdpOptions())
    again.start()
    empty = _net()
    other, fresh = again.wrap(empty, precision, lambda: make(empty.parameters()), 0.5)
    again.restore(other, fresh, weights, state)
    _train(again, other, fresh, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_weights_of_another_model_are_an_error() -> None:
    strategy = Ddp(DdpOptions())
    with pytest.raises(TkError, match="does not"):
        strategy.restore(_net(), None, {"9.weight": torch.zeros(2)}, {})
    with pytest.raises(TkError, match=r"\(2,\) in the checkpoint"):
        strategy.restore(_net(), None, {"0.bias": torch.zeros(2)}, {})


def test_a_step_without_finite_gradients_is_skipped() -> None:
    strategy = Ddp(DdpOptions())
    net = _net()
    module, optimizer = strategy.wrap(net, "fp32", lambda: torch.optim.SGD(net.parameters(), lr=1.0), 1.0)
    before = [p.clone() for p in module.parameters()]
    strategy.backward(module(torch.full((1, 4), math.inf)).sum())
    assert math.isnan(strategy.step(module, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())
