"""Behaviour of the parts of the policy objective: what a package with one checks it by, in its own tests.

Raises AssertionError with what was found.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tk.testing.need import need
from tk_grpo.contracts import Advantage, Aggregation, Clip, Ratio

PROMPTS, ANSWERS = 5, 4
NAN = float("nan")


def check_advantage(advantage: Advantage) -> None:
    """Finite, 0 where no reward applies, and what an answer gets follows it wherever it stands among the others."""
    draw = torch.Generator().manual_seed(0)
    rewards = torch.rand(PROMPTS, ANSWERS, generator=draw, dtype=torch.float64)
    lengths = torch.randint(1, 99, rewards.shape, generator=draw).double()
    rewards[0, 1], rewards[1] = NAN, NAN
    given = rewards.clone()
    found = advantage(rewards, lengths)
    need(found.shape == rewards.shape, f"advantages have the shape {tuple(found.shape)}, not {tuple(rewards.shape)}")
    need(bool(found.isfinite().all()), f"an advantage is infinite or NaN: {found.tolist()}")
    need(not found[rewards.isnan()].any(), "an answer to which no reward applies has an advantage")
    need(torch.equal(rewards.nan_to_num(-1), given.nan_to_num(-1)), "the rewards were changed")
    need(bool(found.any()), "all advantages are 0: nothing is learnt")
    prompts, answers = torch.randperm(PROMPTS, generator=draw), torch.randperm(ANSWERS, generator=draw)
    moved = advantage(rewards[prompts][:, answers], lengths[prompts][:, answers])
    need(torch.allclose(moved, found[prompts][:, answers]), "what an answer gets depends on where it stands")
    for equal in (0.0, 1.0):
        same = advantage(torch.full_like(rewards, equal), lengths)
        need(bool(same.isfinite().all()), f"equal rewards of {equal} give an advantage that is infinite or NaN")


def check_ratio(ratio: Ratio) -> None:
    """1 where the policy has not moved, differentiable, and of an answer's own tokens only."""
    rows = torch.tensor([0, 0, 0, 1, 2, 2])
    lengths = torch.bincount(rows).double()
    moved = torch.randn(len(rows), generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 5

    def weighted(log_ratio: Tensor) -> Tensor:
        def reduce(values: Tensor) -> Tensor:
            return values.new_zeros(len(lengths)).index_add(0, rows, values)

        return ratio(log_ratio, rows, lengths, reduce)

    still = weighted(torch.zeros_like(moved))
    need(still.shape == moved.shape, f"{tuple(still.shape)} log-ratios of {tuple(moved.shape)} tokens")
    need(not still.any(), f"a policy that has not moved has the log-ratios {still.tolist()}")
    leaf = moved.clone().requires_grad_()
    weighted(leaf)[rows == 0].sum().backward()
    assert leaf.grad is not None
    need(bool(leaf.grad.isfinite().all() and leaf.grad[rows == 0].any()), "an answer's tokens have no finite gradient")
    need(not leaf.grad[rows > 0].any(), "the ratio of an answer depends on the tokens of another")


def check_clip(clip: Clip) -> None:
    """At a ratio of 1 it is the advantage, with its gradient; finite far away, where it says that it clips."""
    ratios = torch.tensor([1.0, 1.0, 1.0, 1e-3, 1e-3, 1e3, 1e3], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -0.5, 0.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    value, clipped = clip(ratios, advantages)
    need(value.shape == clipped.shape == ratios.shape, "not one value and one mark for each token")
    need(bool(value.isfinite().all()), f"a value is infinite or NaN: {value.tolist()}")
    need(set(clipped.tolist()) <= {0.0, 1.0}, f"marks of what was clipped are {clipped.tolist()}, not 0 or 1")
    need(not clipped[:3].any(), "a ratio of 1 counts as clipped")
    value.sum().backward()
    assert ratios.grad is not None
    need(bool(ratios.grad.isfinite().all()), f"a gradient is infinite or NaN: {ratios.grad.tolist()}")
    need(
        torch.allclose(ratios.grad[:3], advantages[:3]),
        f"at a ratio of 1 the gradients are {ratios.grad[:3].tolist()} and not the advantages {advantages[:3].tolist()}",
    )


def check_aggregation(aggregation: Aggregation, limit: int = 64) -> None:
    """Finite factors and normalisers from 0 on, each answer's by itself, so that accumulation changes nothing."""
    lengths = torch.tensor([5.0, 1.0, 64.0, 0.0, 17.0])
    factors, normalisers = aggregation(lengths, limit)
    for name, values in (("factors", factors), ("normalisers", normalisers)):
        need(values.shape == lengths.shape, f"{name} have the shape {tuple(values.shape)}, not {tuple(lengths.shape)}")
        need(all(math.isfinite(v) and v >= 0 for v in values.tolist()), f"{name} are {values.tolist()}")
    need(bool(normalisers.sum() > 0), "the normaliser of a step is 0")
    each = [aggregation(lengths[i : i + 1], limit) for i in range(len(lengths))]
    for name, whole, own in (
        ("factors", factors, [a for a, _ in each]),
        ("normalisers", normalisers, [b for _, b in each]),
    ):
        need(torch.allclose(whole, torch.cat(own)), f"{name} of an answer depend on the answers beside it")
