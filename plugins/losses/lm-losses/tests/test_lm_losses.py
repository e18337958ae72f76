"""The losses equal torch's and TRL's on the same logits, and count tokens as their weights say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tk_lm_losses.losses import CausalLm, Dft
from tk_lm_losses.options import CausalLmOptions

V = 41
LOSSES = [CausalLm(), CausalLm(CausalLmOptions(0.1)), CausalLm(CausalLmOptions(0.2, 1e-2)), Dft()]


def stats_of(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    logps = logits.log_softmax(-1)
    return {
        "logps": logps.gather(1, targets[:, None]).squeeze(1),
        "mean_logps": logps.mean(-1),
        "logsumexp": logits.logsumexp(-1),
    }


def total(
    loss: Any, logits: Tensor, targets: Tensor, weights: Tensor, rows: Tensor | None = None, samples: int = 1
) -> Tensor:
    rows = torch.zeros_like(targets) if rows is None else rows
    fields = {"targets": targets, "token_weights": weights, "rows": rows}
    wanted = {s.name: stats_of(logits, targets)[s.name] for s in loss.wants}
    return loss(wanted, fields, lambda v: v.new_zeros(samples).index_add(0, rows, v))


def random(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, V, generator=generator) * 3
    return logits.requires_grad_(), torch.randint(0, V, (n,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_with_smoothing_is_torchs_in_value_and_gradient(smoothing: float) -> None:
    logits, targets = random(13)
    ours = total(CausalLm(CausalLmOptions(smoothing)), logits, targets, torch.ones(13)).sum()
    theirs = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, theirs)), rtol=1e-5, atol=1e-6)


def test_z_loss_adds_the_squared_log_normaliser() -> None:
    logits, targets = random(9)
    plain, extra = (
        total(CausalLm(CausalLmOptions(z_loss=z)), logits, targets, torch.ones(9)).sum() for z in (0.0, 1e-2)
    )
    torch.testing.assert_close(extra - plain, 1e-2 * logits.logsumexp(-1).square().sum(), rtol=1e-4, atol=1e-4)


def test_dft_is_the_papers_formula_with_no_gradient_through_the_probability() -> None:
    logits, targets = random(11)
    ours = total(Dft(), logits, targets, torch.ones(11)).sum()
    p = logits.softmax(-1)[range(11), targets]
    torch.testing.assert_close(ours, -(p * p.log()).sum())
    gradient = torch.autograd.grad(ours, logits)[0]
    wanted = p.detach()[:, None] * (logits.softmax(-1) - F.one_hot(targets, V)).detach()
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@given(seed=st.integers(0, 50), n=st.integers(2, 12), cut=st.integers(1, 11), factor=st.floats(0.25, 4))
@settings(max_examples=20, deadline=None)
def test_values_are_sums_by_sample_linear_in_the_weights(loss: Any, seed: int, n: int, cut: int, factor: float) -> None:
    logits, targets = random(n, seed)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    rows = (torch.arange(n) >= cut).long()
    both = total(loss, logits, targets, weights, rows, 2)
    assert both.shape == (2,)
    alone = [total(loss, logits[rows == r], targets[rows == r], weights[rows == r]).sum() for r in (0, 1)]
    torch.testing.assert_close(both, torch.stack(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        total(loss, logits, targets, weights * factor, rows, 2), both * factor, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_token_without_weight_counts_for_nothing_and_gets_no_gradient(loss: Any) -> None:
    logits, targets = random(6)
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5, 0.0])
    value = total(loss, logits, targets, weights).sum()
    kept = weights > 0
    torch.testing.assert_close(value, total(loss, logits[kept], targets[kept], weights[kept]).sum())
    assert torch.autograd.grad(value, logits)[0][~kept].abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_are_finite_where_a_token_is_all_but_impossible(loss: Any) -> None:
    logits = torch.zeros(2, V)
    logits[:, 0] = 300.0
    logits.requires_grad_()
    value = total(loss, logits, torch.tensor([0, 5]), torch.ones(2)).sum()
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_losses_declare_their_unit_and_scope() -> None:
    assert {(loss.unit, loss.scope) for loss in LOSSES} == {("token", "row")}


def test_only_what_is_used_is_asked_for() -> None:
    assert [s.name for s in CausalLm().wants] == ["logps"]
    assert [s.name for s in CausalLm(CausalLmOptions(0.1, 1e-4)).wants] == ["logps", "mean_logps", "logsumexp"]


def test_specs_name_what_can_be_built() -> None:
    from tk_lm_losses import plugin

    assert {s.name: SimpleNamespace(t=s.target, c=s.config).t for s in plugin.tk_losses()} == {
        "causal-lm": "tk_lm_losses.losses:CausalLm",
        "dft": "tk_lm_losses.losses:Dft",
    }
