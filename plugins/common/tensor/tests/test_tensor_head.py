"""The statistics of the head equal their definition in double precision, whichever way they are computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import TopKLogitsWarper, TopPLogitsWarper

from tk.contracts import Stat
from tk_tensor.head import STATISTICS, Projection, statistics

V, H = 53, 16
ALL = ("logps", "mean_logps", "entropy", "logsumexp")


def reference(
    hidden: Tensor, linear: nn.Linear, targets: Tensor, name: str, t: float, scale: float, cap: float | None
) -> Tensor:
    z = hidden @ linear.weight.double().T
    if linear.bias is not None:
        z = z + linear.bias.double()
    z = z * scale
    if cap is not None:
        z = cap * torch.tanh(z / cap)
    p = torch.softmax(z / t, -1)
    return {
        "logps": p.gather(1, targets[:, None])[:, 0].log(),
        "mean_logps": p.log().mean(1),
        "entropy": -(p * p.log()).sum(1),
        "logsumexp": (z / t).exp().sum(1).log(),
    }[name]


def case(n: int, *, seed: int = 0, bias: bool = False, grad: bool = False) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    linear = nn.Linear(H, V, bias=bias).requires_grad_(grad)
    return torch.randn(n, H, requires_grad=True), linear, torch.randint(0, V, (n,)), torch.randn(4, n)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("names", [ALL, ("logps",), ("logps", "mean_logps", "logsumexp")])
@pytest.mark.parametrize(
    ("temperature", "scale", "cap"), [(1.0, 1.0, None), (0.7, 3.0, None), (1.0, 2.0, 1.5), (1.3, 0.5, 2.0)]
)
def test_values_and_gradients_equal_the_definition(
    names: tuple[str, ...], chunk: int, trained: bool, temperature: float, scale: float, cap: float | None
) -> None:
    hidden, linear, targets, upstream = case(11, grad=trained, bias=True)
    wants = [Stat(name, temperature) for name in names]
    found = statistics(Projection(linear, scale, cap), hidden, targets, wants, chunk)
    sum((u * found[n]).sum() for u, n in zip(upstream, names, strict=False)).backward()
    exact = hidden.detach().double().requires_grad_()
    wanted = {n: reference(exact, linear, targets, n, temperature, scale, cap) for n in names}
    sum((u.double() * wanted[n]).sum() for u, n in zip(upstream, names, strict=False)).backward()
    for name in names:
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 0.9, 0), (0.7, 0.5, 0), (1.3, 1.0, 5), (0.8, 0.6, 9)]
)
def test_the_distribution_that_is_sampled_from_is_transformers_with_the_target_in_it(
    temperature: float, top_p: float, top_k: int, cap: float | None, trained: bool
) -> None:
    names = ("logps", "entropy", "logsumexp") if trained else ("logps", "logsumexp")
    hidden, linear, targets, upstream = case(23, grad=trained)
    wants = [Stat(name, temperature, top_p=top_p, top_k=top_k) for name in names]
    found = statistics(Projection(linear, 4.0, cap), hidden, targets, wants, chunk=4)
    sum((u[0] * found[n]).sum() for u, n in zip(upstream, names, strict=False)).backward()
    exact = hidden.detach().double().requires_grad_()
    z = exact @ linear.weight.double().T * 4.0
    z = (z if cap is None else cap * torch.tanh(z / cap)) / temperature
    cut = TopKLogitsWarper(top_k)(None, z.detach()) if top_k else z.detach()
    cut = TopPLogitsWarper(top_p)(None, cut) if top_p < 1 else cut
    kept = (cut > -torch.inf).scatter(1, targets[:, None], True)
    assert 0 < kept.sum(1).min() < V
    p = torch.softmax(z.masked_fill(~kept, -torch.inf), -1)
    wanted = {
        "logps": p.gather(1, targets[:, None])[:, 0].log(),
        "entropy": -(p * torch.where(kept, p, 1.0).log()).sum(1),
        "logsumexp": z.masked_fill(~kept, -torch.inf).logsumexp(1),
    }
    sum((u[0].double() * wanted[n]).sum() for u, n in zip(upstream, names, strict=False)).backward()
    for name in names:
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@given(n=st.integers(1, 40), chunk=st.integers(1, 16), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_chunks_change_nothing(n: int, chunk: int, seed: int) -> None:
    results = []
    for size in (1024, chunk):
        hidden, linear, targets, upstream = case(n, seed=seed, grad=True)
        found = statistics(Projection(linear), hidden, targets, [Stat("logps")], size)["logps"]
        (found * upstream[0]).sum().backward()
        results.append((found.detach(), hidden.grad, linear.weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_no_more_than_a_chunk_of_logits_is_kept_for_the_backward_pass(trained: bool) -> None:
    hidden, linear, targets, _ = case(64, grad=trained)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() if tensor.shape[-1:] == (V,) else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        statistics(Projection(linear), hidden, targets, [Stat("logps")], chunk=8)
    assert sum(kept) <= 8 * V


def test_two_temperatures_share_one_pass_of_logits() -> None:
    hidden, linear, targets, _ = case(5)
    both = statistics(Projection(linear), hidden, targets, [Stat("logps", 0.5), Stat("logsumexp", 2.0)])
    torch.testing.assert_close(
        both["logps"].double(),
        reference(hidden.double(), linear, targets, "logps", 0.5, 1.0, None),
        rtol=1e-5,
        atol=1e-5,
    )
    torch.testing.assert_close(
        both["logsumexp"].double(),
        reference(hidden.double(), linear, targets, "logsumexp", 2.0, 1.0, None),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_half_precision_weights_give_single_precision_statistics(dtype: torch.dtype, trained: bool) -> None:
    hidden, linear, targets, _ = case(6, grad=trained)
    half = hidden.detach().to(dtype).requires_grad_()
    found = statistics(Projection(linear.to(dtype)), half, targets, [Stat("logps")])["logps"]
    found.sum().backward()
    assert found.dtype is torch.float32
    exact = half.detach().double().requires_grad_()
    reference(exact, linear, targets, "logps", 1.0, 1.0, None).sum().backward()
    assert torch.linalg.norm(half.grad.double() - exact.grad) / torch.linalg.norm(exact.grad) < 0.02


def test_full_logits_are_given_where_they_are_wanted() -> None:
    hidden, linear, targets, _ = case(5)
    found = statistics(Projection(linear), hidden, targets, [Stat("logits", 2.0)], chunk=2)
    torch.testing.assert_close(found["logits"], linear(hidden) / 2.0)


def test_gradients_hold_against_finite_differences() -> None:
    hidden, linear, targets, _ = case(3)
    linear.double()

    def run(h: Tensor) -> tuple[Any, ...]:
        wants = [Stat(n) for n in ("logps", "mean_logps", "logsumexp")]
        return tuple(statistics(Projection(linear, 1.5, 2.5), h, targets, wants).values())

    assert torch.autograd.gradcheck(run, (hidden.detach().double().requires_grad_(),))


def test_every_statistic_of_the_vocabulary_is_listed() -> None:
    assert set(STATISTICS) == {*ALL, "logits"}
