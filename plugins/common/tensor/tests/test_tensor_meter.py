"""Memory without numbers: what is counted of shapes is what is counted of real tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from tk_tensor.meter import WORKING, Meter, TooLong, weightless

Make = Callable[..., nn.Module]
KIB = 1024


def test_a_storage_counts_once_and_only_while_it_lives() -> None:
    meter, held = Meter(), torch.zeros(KIB)
    meter.count("weights", [held, held[:7], held.view(2, -1)])
    assert meter.now["weights"] == 4 * KIB
    with meter:
        first = held + 1
        second = first.view(32, 32).t() + 0
        del first
        third = held.double()
        del second, third
    assert meter.now == {"weights": 4 * KIB, WORKING: 0}
    assert meter.peak == {"weights": 4 * KIB, WORKING: 4 * KIB + 8 * KIB}


def test_a_tensor_takes_the_kind_that_it_is_given_last() -> None:
    meter = Meter()
    with meter:
        made = torch.zeros(KIB) + 1
    meter.count("gradients", [made])
    assert meter.now == {WORKING: 0, "gradients": 4 * KIB}
    meter.forget()
    assert meter.peak == {WORKING: 0, "gradients": 4 * KIB}


def test_tied_weights_stay_tied_and_hold_nothing() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    weightless(model, "cpu")
    assert model[0].weight is model[1].weight
    assert (model[0].weight.device.type, model[0].weight.requires_grad) == ("cpu", True)
    meter = Meter()
    meter.count("weights", model.parameters())
    assert meter.now["weights"] == 50 * 8 * 4


def peak(model: nn.Module, inputs: Mapping[str, Tensor], precision: torch.dtype) -> Mapping[str, int]:
    """Bytes by kind at the peak of a step of AdamW after the first."""
    meter = Meter()
    meter.count("weights", [*model.parameters(), *model.buffers()])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    for _ in range(2):
        meter.forget()
        with meter:
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = model(**inputs, use_cache=False).logits
            logits.float().logsumexp(-1).sum().backward()
            del logits
            meter.count("gradients", [p.grad for p in trained if p.grad is not None])
            optimizer.step()
            meter.count("optimizer", [t for state in optimizer.state.values() for t in state.values()])
            optimizer.zero_grad()
    return meter.peak


@pytest.mark.parametrize(
    "architecture", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "gemma3", "qwen2"))]
)
@pytest.mark.parametrize(
    ("attention", "adapted", "recomputed", "precision"),
    [
        ("sdpa", False, False, torch.float32),
        ("eager", False, False, torch.float32),
        ("sdpa", True, False, torch.float32),
        ("sdpa", False, True, torch.float32),
        ("eager", True, True, torch.float32),
        ("sdpa", True, False, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("padded", [True, False])
def test_shapes_have_the_peak_of_numbers(
    tiny: Make, architecture: str, attention: str, adapted: bool, recomputed: bool, precision: torch.dtype, padded: bool
) -> None:
    model: Any = tiny(architecture, attention=attention)
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=2, task_type="CAUSAL_LM"))
        model.enable_input_require_grads()
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    ids = torch.randint(1, 90, (2, 24))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0 if padded else 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    shapes: Any = copy.deepcopy(model).to("meta")
    (shapes.get_base_model() if adapted else shapes).tie_weights()
    weightless(shapes, "cpu")
    assert peak(shapes, inputs, precision) == peak(model, inputs, precision)


def test_what_numbers_decide_is_taken_at_its_largest() -> None:
    with torch.device("meta"):
        layer = nn.Linear(8, 8)
    weightless(layer, "cpu")
    x, known = torch.zeros(5, 8), torch.tensor([True, False, True, True, False])
    with Meter():
        y = layer(x)
        assert y[known].shape == (3, 8)
        assert y[y.sum(1) > 0].shape == (5, 8)
        assert (y > 0).nonzero().shape == (40, 2)
        assert y.sum().item() == 1.0
        y[known].sum().backward()
    assert layer.weight.grad is not None


def test_a_computation_without_end_is_broken_off() -> None:
    def count(value: Tensor) -> None:
        with Meter(seconds=0.05):
            while True:
                value = value + 1

    with pytest.raises(TooLong):
        count(torch.zeros(1))
