"""A fused layer computes what peft's own does, forward and backward, and leaves to it all that is more than the plain case."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn

from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_lora.fused import FusedLinear
from tk_lora.options import LoraOptions
from tk_lora.tuner import LoraTuner

IN, OUT, RANK = 12, 20, 4


def layer(kind: type[Linear], bias: bool = True, dtype: torch.dtype = torch.float32, **config: Any) -> Linear:
    torch.manual_seed(0)
    base = nn.Linear(IN, OUT, bias=bias).requires_grad_(False)
    made = kind(base, "default", config=LoraConfig(r=RANK, lora_alpha=7, **config), r=RANK, lora_alpha=7)
    nn.init.normal_(made.lora_B["default"].weight)
    return made.to(dtype)


def passed(made: Linear, x: Tensor, autocast: bool = False) -> list[Tensor]:
    """The output, and the gradients at the input and at every trained parameter."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = made(x)
    torch.manual_seed(2)
    output.backward(torch.randn_like(output))
    trained = [p.grad for p in made.parameters() if p.requires_grad]
    gradients = [g for g in (x.grad, *trained) if g is not None]
    return [output.detach(), *gradients]


def inputs(*shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*shape, IN)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), ()])
def test_values_and_gradients_are_those_of_peft(bias: bool, shape: tuple[int, ...]) -> None:
    own, theirs = (passed(layer(kind, bias), inputs(*shape)) for kind in (FusedLinear, Linear))
    assert len(own) == len(theirs) == 4
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(own, theirs, strict=True))
    assert max(distance(a, b) for a, b in zip(own, theirs, strict=True)) < 1e-6


def test_the_gradient_is_that_of_finite_differences() -> None:
    made = layer(FusedLinear, dtype=torch.float64)
    down, up = made.lora_A["default"].weight, made.lora_B["default"].weight
    assert torch.autograd.gradcheck(lambda x, *_: made(x), (inputs(2, 3).double().requires_grad_(), down, up))


def test_inputs_that_are_views_are_read_right() -> None:
    x = inputs(4, 6).transpose(0, 1)
    own, theirs = (passed(layer(kind), x) for kind in (FusedLinear, Linear))
    assert max(distance(a, b) for a, b in zip(own, theirs, strict=True)) < 1e-6


def test_under_autocast_it_is_as_near_to_float32_as_peft() -> None:
    x = inputs(3, 64)
    exact = passed(layer(Linear), x)
    own, theirs = (passed(layer(kind), x, autocast=True) for kind in (FusedLinear, Linear))
    assert [t.dtype for t in own] == [t.dtype for t in theirs]
    for a, b, reference in zip(own, theirs, exact, strict=True):
        assert distance(a, reference) < max(1.2 * distance(b, reference), 1e-3)


def test_what_is_frozen_gets_no_gradient() -> None:
    made = layer(FusedLinear)
    made.lora_A["default"].requires_grad_(False)
    output = made(inputs(3))
    output.sum().backward()
    assert made.lora_A["default"].weight.grad is None
    assert made.lora_B["default"].weight.grad is not None


def two_adapters(kind: type[Linear]) -> Linear:
    made = layer(kind)
    made.update_layer(
        "other", RANK, lora_alpha=3, config=LoraConfig(r=RANK, lora_alpha=3, init_lora_weights="gaussian")
    )
    torch.manual_seed(4)
    nn.init.normal_(made.lora_B["other"].weight)
    nn.init.normal_(made.lora_A["other"].weight)
    made.set_adapter(["default", "other"])
    return made


def base_trained(kind: type[Linear]) -> Linear:
    made = layer(kind)
    made.base_layer.weight.requires_grad_(True)
    return made


def off(kind: type[Linear]) -> Linear:
    made = layer(kind)
    made.enable_adapters(False)
    return made


def merged(kind: type[Linear]) -> Linear:
    made = layer(kind)
    made.merge()
    return made


def of_two_dtypes(kind: type[Linear]) -> Linear:
    made = layer(kind)
    made.base_layer.to(torch.float64)
    return made


def dropping(kind: type[Linear]) -> Linear:
    made = layer(kind, lora_dropout=0.5)
    torch.manual_seed(9)
    return made.train()


@pytest.mark.parametrize(
    "case",
    [
        two_adapters,
        base_trained,
        off,
        merged,
        of_two_dtypes,
        dropping,
        lambda kind: layer(kind, lora_bias=True),
        lambda kind: layer(kind, use_dora=True),
    ],
)
def test_what_is_more_than_plain_is_left_to_peft(case: Any) -> None:
    results = []
    for kind in (FusedLinear, Linear):
        made, x = case(kind), inputs(3)
        torch.manual_seed(6)
        results.append(made(x.to(made.base_layer.weight.dtype)))
    assert torch.equal(*results)


def test_parts_that_are_listened_to_are_called() -> None:
    made, called = layer(FusedLinear), []
    made.base_layer.register_forward_pre_hook(lambda *_: called.append("base"))
    made(inputs(3))
    assert called == ["base"]


def test_a_model_gets_them_and_its_files_do_not_tell(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "m", "qwen2", vocab=300)
    model = AutoFamily().load(str(path), device="cpu")
    tuner = LoraTuner(LoraOptions(rank=4))
    tuner.attach(model)
    layers = [part for part in model.module.modules() if isinstance(part, Linear)]
    assert layers
    assert all(type(part) is FusedLinear for part in layers)
    tuner.save(model, tmp_path / "adapter", {})
    assert not any("custom" in key for key in json.loads((tmp_path / "adapter" / "adapter_config.json").read_text()))
