"""Noise on embeddings: how much, whose, and where there is none. Activations that wait elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

from tk.contracts import Example, Layout, LoadedModel, Pass, Role, Stat
from tk.errors import TkError
from tk_tensor.branches import Tree, lay_out
from tk_tensor.collate import collate_tokens
from tk_tensor.scored import ScoredModel, build_scored
from tk_tensor.surroundings import EmbeddingNoise, Offload, Surrounding
from tk_tensor.tokens import Tokens

Make = Callable[..., nn.Module]
ALPHA = 5.0
POLICY = (Pass((Stat("logps"),)),)


def examples(*lengths: int) -> list[Example]:
    rng = np.random.default_rng(0)
    values = [{"ids": rng.integers(1, 96, n).astype(np.int32), "weights": np.ones(n, np.float32)} for n in lengths]
    return [Example(len(v["ids"]), v, {}, "") for v in values]


def within(model: nn.Module, *surroundings: Surrounding, roles: Sequence[Role] = (Role("policy"),)) -> ScoredModel:
    return build_scored({"policy": LoadedModel(model, None, "")}, roles, surroundings=surroundings)


def scored(model: nn.Module, alpha: float | None = ALPHA, *roles: Role) -> ScoredModel:
    noise = [EmbeddingNoise(alpha)] if alpha is not None else []
    return within(model, *noise, roles=roles or (Role("policy"),))


def embedded(model: Any, act: Callable[[], object]) -> Tensor:
    """What the first layer is given, while something is done."""
    found: list[Tensor] = []
    handle = model.model.layers[0].register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
    act()
    handle.remove()
    return found[-1]


def noise(model: Any, rows: list[list[Example]], layout: Layout) -> Tensor:
    inputs, fields, _, _ = collate_tokens(rows, layout)
    torch.manual_seed(0)
    seen = embedded(model, lambda: scored(model)(inputs, fields, POLICY))
    return seen - model.get_input_embeddings()(inputs["input_ids"]).detach()


def test_rows_of_one_length_get_the_noise_of_transformers(tiny: Make) -> None:
    model: Any = tiny("llama").train()
    inputs, fields, _, _ = collate_tokens([[e] for e in examples(9, 9, 9)], Layout(0))
    torch.manual_seed(3)
    ours = scored(model)(inputs, fields, POLICY)["policy"]["logps"]
    ours.sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    handle = activate_neftune(model, ALPHA)
    torch.manual_seed(3)
    theirs = scored(model, None)(inputs, fields, POLICY)["policy"]["logps"]
    theirs.sum().backward()
    deactivate_neftune(model, handle)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [Layout(0), Layout(0, side="left"), Layout(0, packing=True, multiple=8)])
def test_the_noise_of_a_sample_depends_on_its_own_length(tiny: Make, layout: Layout) -> None:
    model = tiny("llama", hidden_size=64).train()
    lengths = (4, 16, 9)
    rows = [examples(*lengths)] if layout.packing else [[e] for e in examples(*lengths)]
    found = noise(model, rows, layout)
    segments = collate_tokens(rows, layout)[1]["segments"].reshape(found.shape[:2])
    assert not found[segments < 0].any()
    for sample, length in enumerate(lengths):
        bound = ALPHA / (length * 64) ** 0.5
        own = found[segments == sample]
        assert bound * 0.97 < own.abs().max() <= bound * (1 + 1e-5)
        assert own.mean().abs() < 4 * bound / (3 * own.numel()) ** 0.5
        assert own.square().mean().sqrt() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_evaluation_and_passes_without_gradient_have_no_noise(tiny: Make) -> None:
    model: Any = tiny("llama").train()
    inputs, fields, _, _ = collate_tokens([[e] for e in examples(9, 5)], Layout(0))
    roles = (Role("policy"), Role("reference", trainable=False, of="policy"))
    noisy, plain = scored(model, ALPHA, *roles), scored(model, None, *roles)
    reference = Pass((Stat("logps"),), role="reference", grad=False)
    found = noisy(inputs, fields, (reference, *POLICY))
    exact = plain(inputs, fields, (reference, *POLICY))
    assert torch.equal(found["reference"]["logps"], exact["reference"]["logps"])
    assert not torch.allclose(found["policy"]["logps"], exact["policy"]["logps"], atol=1e-3)
    noisy.eval()
    assert torch.equal(noisy(inputs, fields, POLICY)["policy"]["logps"], exact["policy"]["logps"])
    assert not model.get_input_embeddings()._forward_hooks


def test_samples_that_share_a_beginning_are_refused(tiny: Make) -> None:
    tokens = [Tokens.untrained([5, 6, 7]), Tokens(np.array([8], np.int32), np.ones(1, np.float32))]
    inputs, fields, _, _ = lay_out([[Tree(tokens[0], [tokens[1], tokens[1]])]], Layout(0, shared_prefix=True))
    with pytest.raises(TkError, match="share a beginning"):
        scored(tiny("llama").train())(inputs, fields, POLICY)


def gradients(model: Any, *surroundings: Surrounding) -> list[Tensor]:
    model.zero_grad()
    inputs, fields, _, _ = collate_tokens([[e] for e in examples(12, 7)], Layout(0))
    within(model, *surroundings)(inputs, fields, POLICY)["policy"]["logps"].sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_activations_that_were_away_give_the_same_gradients(tiny: Make, adapted: bool, recomputed: bool) -> None:
    model: Any = tiny("llama").train()
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False))
        model.enable_input_require_grads()
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    away = Moved()
    plain, moved = gradients(model), gradients(model, away)
    assert all(torch.equal(a, b) for a, b in zip(plain, moved, strict=True))
    assert away.sizes
    assert not {p.data_ptr() for p in model.parameters()} & away.places
    assert not away.left()


class Moved(Offload):
    """Tells what was moved. places: of the originals. sizes: of the copies."""

    def __init__(self) -> None:
        super().__init__(least=1)
        self.places: set[int] = set()
        self.sizes: list[int] = []

    def _away(self, kept: Tensor) -> tuple[torch.device | None, Tensor]:
        before = len(self._moved)
        device, copy = super()._away(kept)
        if len(self._moved) > before:
            self.places.add(kept.data_ptr())
            self.sizes.append(copy.numel())
        assert device is None or copy.data_ptr() != kept.data_ptr()
        return device, copy

    def left(self) -> int:
        return len(self._moved)


def test_small_tensors_and_weights_stay_and_what_several_keep_moves_once() -> None:
    model = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
    away = Moved()
    away._least = 64 * 64 * 4
    x = torch.randn(64, 64, requires_grad=True)
    with away(model, {}, {}):
        hidden = x.exp()  # keeps its result, as each layer keeps it as its input
        kept = sum(layer(hidden).sum() for layer in model) + x[:8].sin().sum()
    assert away.sizes == [64 * 64]
    kept.backward()
    expected = torch.autograd.grad(sum(layer(x.exp()).sum() for layer in model) + x[:8].sin().sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)
