"""Adapters whose initialisation changed the base weights (PiSSA, OLoRA), as plain LoRA on the unchanged base.

With W = W_res + s B0 A0 the trained layer is W_res + s B A = W + s [B, -B0] [A; A0]: an adapter of twice the rank that
needs no changed base. It holds the initial values too, so that training can go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt

import torch
from peft import LoraConfig
from torch import Tensor, nn

from tk_lora.attach import lora_layers


def doubled(trained: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained tensors (peft's names) with the initial A and B (the same names) behind them."""
    joined = dict(trained)
    for name, first in initial.items():
        tensor = trained[name]
        first = first.to(tensor)
        down = ".lora_A." in name
        joined[name] = torch.cat([tensor, first if down else -first], 0 if down else 1).contiguous()
    return joined


def halved(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained tensors and the initial A and B that `doubled` joined."""
    trained, initial = dict(stored), {}
    for name, tensor in stored.items():
        if ".lora_A." in name or ".lora_B." in name:
            down = ".lora_A." in name
            trained[name], first = (half.contiguous() for half in tensor.chunk(2, 0 if down else 1))
            initial[name] = first if down else -first
    return trained, initial


def doubled_config(config: LoraConfig) -> LoraConfig:
    """The config of the joined adapter: twice every rank, the same scaling."""
    factor = sqrt(2) if config.use_rslora else 2
    return replace(
        config,
        r=2 * config.r,
        lora_alpha=factor * config.lora_alpha,
        rank_pattern={name: 2 * rank for name, rank in (config.rank_pattern or {}).items()},
        alpha_pattern={name: factor * alpha for name, alpha in (config.alpha_pattern or {}).items()},
        init_lora_weights=True,
    )


def rebase(module: nn.Module, present: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Change the base weights from those that belong to the `present` initial values to those for the `stored` ones.

    Decompositions differ in the last bits from machine to machine. Names are those of the module's parameters.
    """
    for prefix, layer in lora_layers(module):
        names = [f"{prefix}.lora_{matrix}.default.weight" for matrix in "AB"]
        (a, b), (stored_a, stored_b) = ([values[name] for name in names] for values in (present, stored))
        if torch.equal(a, stored_a.to(a)) and torch.equal(b, stored_b.to(b)):
            continue
        change = layer.scaling["default"] * (b.double() @ a.double() - stored_b.double() @ stored_a.double())
        weight = layer.get_base_layer().weight
        change = change.T if layer.fan_in_fan_out else change
        weight.data = (weight.data.double() + change.to(weight.device)).to(weight.dtype)
