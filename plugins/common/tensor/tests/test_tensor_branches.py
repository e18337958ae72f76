"""Samples that share their beginning in one row compute what they compute in rows of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tk.contracts import Layout, LoadedModel, Pass, Role, Stat
from tk_tensor.branches import Tree, collate_trees, lay_out, mask_of, worth_sharing
from tk_tensor.collate import collate_tokens
from tk_tensor.packing import probe_shared_prefix
from tk_tensor.scored import build_scored
from tk_tensor.tokens import Tokens

Make = Callable[..., nn.Module]
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen2-moe": {},
    "gpt2": {},
    "phi3": {},
    "mistral": {},
    "gemma2": MIXED,
    "gemma3": MIXED,
    "gpt-oss": MIXED,
    "cohere2": MIXED,
}
"""Sliding windows are shorter than the trunks."""


def trees(*shapes: tuple[int, ...], seed: int = 0) -> list[Tree]:
    """A tree of each shape: tokens of the trunk, then of each branch; every second token of a branch is trained."""
    draw = np.random.default_rng(seed)
    return [
        Tree(
            Tokens.untrained(draw.integers(3, 96, trunk)),
            [
                Tokens(draw.integers(3, 96, n).astype(np.int32), (np.arange(n) % 2 == 0).astype(np.float32))
                for n in branches
            ],
        )
        for trunk, *branches in shapes
    ]


def scores(model: nn.Module, made: tuple[dict[str, Any], dict[str, Any], int, int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the trained tokens, and their sum's gradient."""
    inputs, fields, _, _ = made
    scored = build_scored({"policy": LoadedModel(model, None, "")}, (Role("policy"),), None)  # type: ignore[arg-type]
    model.zero_grad()
    logps = scored(inputs, fields, [Pass((Stat("logps"),))])["policy"]["logps"]
    (logps * torch.linspace(1, 2, len(logps))).sum().backward()
    return logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.linalg.norm(a - b) <= 1e-5 * torch.linalg.norm(b)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_a_shared_beginning_equals_rows_of_their_own(tiny: Make, architecture: str, attention: str) -> None:
    if attention == "sdpa" and architecture in ("gpt-oss", "gemma2"):
        pytest.skip("transformers has it with eager attention only")
    model = tiny(architecture, attention=attention, **FAMILIES[architecture]).eval()
    assert probe_shared_prefix(model)
    rows = [[tree] for tree in trees((17, 4, 6), (9, 5, 2, 3))]
    plain = scores(model, collate_trees(rows, Layout(0)))
    same(scores(model, lay_out(rows, Layout(0))), plain)
    same(scores(model, lay_out(rows, Layout(0, side="left"))), plain)
    same(scores(model, lay_out([[tree for row in rows for tree in row]], Layout(0, packing=True, multiple=8))), plain)


@pytest.mark.parametrize("architecture", ["mamba", "qwen3-next", "falcon-h1", "bloom"])
def test_models_that_cannot_are_found_out(tiny: Make, architecture: str) -> None:
    assert not probe_shared_prefix(tiny(architecture))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 5)),
)
@settings(max_examples=50, deadline=None)
def test_a_token_sees_its_own_sequence_and_nothing_else(shapes: list[tuple[int, int, int]], window: int | None) -> None:
    inputs, _, samples, tokens = lay_out([trees(*shapes)], Layout(0, packing=True))
    seen = mask_of(inputs, window)[0, 0]
    tree, branch, position = (inputs[name][0] for name in ("trees", "branches", "position_ids"))
    assert (samples, tokens) == (2 * len(shapes), sum(sum(shape) for shape in shapes))
    for q in range(len(tree)):
        visible = set(torch.nonzero(seen[q]).flatten().tolist())
        before = {
            k
            for k in range(q + 1)
            if tree[k] == tree[q]
            and branch[k] in (0, branch[q])
            and (window is None or position[q] - position[k] < window)
        }
        assert visible == before
        if window is None:
            assert sorted(position[k].item() for k in visible) == list(range(int(position[q]) + 1))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_both_layouts_have_the_same_fields(shapes: list[tuple[int, int, int]]) -> None:
    rows = [[tree] for tree in trees(*shapes)]
    plain = collate_tokens([[e] for row in rows for tree in row for e in tree.sequences()], Layout(0))
    shared = lay_out(rows, Layout(0))
    for name in ("targets", "token_weights", "rows", "lengths"):
        assert torch.equal(shared[1][name], plain[1][name]), name
    ids = [made[0]["input_ids"].flatten() for made in (plain, shared)]
    if plain[1]["token_weights"].any():
        before = [i[made[1]["select"]] for i, made in zip(ids, (plain, shared), strict=True)]
        assert torch.equal(*before)
    assert torch.equal(*(i[made[1]["ends"]] for i, made in zip(ids, (plain, shared), strict=True)))


def test_trunks_are_shared_where_they_are_long() -> None:
    assert worth_sharing(trees((40, 4, 6)), 1.0)
    assert not worth_sharing(trees((4, 14, 16)), 1.0)
    layout = Layout(0, shared_prefix=True)
    assert "branches" in collate_trees([trees((40, 4, 6))], layout)[0]
    assert "attention_mask" in collate_trees([trees((4, 14, 16))], layout)[0]
    assert "attention_mask" in collate_trees([trees((40, 4, 6))], Layout(0))[0]
    assert "branches" in collate_trees([trees((4, 14, 16))], Layout(0, shared_prefix=True, shared_from=0.0))[0]
