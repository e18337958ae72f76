"""A linear layer with a LoRA adapter in one step of autograd: the update is added into the base's output and gradient.

peft's own layer writes the update, its scaled copy and the sum as three tensors of the output's size, and again backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn


def use_in(config: LoraConfig) -> None:
    """Let peft make these layers of plain linear ones."""
    # the only way in that peft offers; the mapping is not written into adapter_config.json
    config._register_custom_module({nn.Linear: _layer})


def _layer(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> nn.Module | None:
    # quantised layers are nn.Linear's children: peft has layers for them; None leaves the choice to peft
    if type(target) is not nn.Linear:
        return None
    return FusedLinear(target, adapter_name, config=config, **kwargs)


class FusedLinear(Linear):
    """peft's layer: its parameters, names, merging and files. Everything but the plain case is peft's own forward."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter = self._plain(x) if not args and not kwargs else None
        if adapter is None:
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        base, down, up = self.base_layer, self.lora_A[adapter], self.lora_B[adapter]
        operands = [x, base.weight, base.bias, down.weight, up.weight]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            operands = [None if operand is None else operand.to(dtype) for operand in operands]
        fused: Tensor = _Fused.apply(*operands, self.scaling[adapter])
        return fused

    def _plain(self, x: Tensor) -> str | None:
        """The one adapter of rows whose forward is x·Wᵀ + s·(x·Aᵀ)·Bᵀ with W as it stands; None where there is more to it."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or self.disable_adapters or self.merged:
            return None
        (name,) = active
        parts = (self.base_layer, self.lora_A[name], self.lora_B[name])
        dropped = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        if dropped or name in self.lora_variant or parts[2].bias is not None or self.base_layer.weight.requires_grad:
            return None
        # a strategy that gathers weights when a part is called, or a reader of activations
        if any(part._forward_pre_hooks or part._forward_hooks for part in parts):
            return None
        alike = all(part.weight.dtype == x.dtype for part in parts) or torch.is_autocast_enabled(x.device.type)
        return name if alike else None


class _Fused(torch.autograd.Function):
    """y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ. x: [..., in], W: [out, in], b: [out] or None, A: [rank, in], B: [out, rank]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        output = nn.functional.linear(rows, weight, bias)
        inner = rows @ down.t()
        output.addmm_(inner, up.t(), alpha=scale)
        ctx.save_for_backward(x, weight, bias, down, up, inner)
        ctx.scale = scale
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _, down, up, inner = ctx.saved_tensors
        of_x, _, of_bias, of_down, of_up, _ = ctx.needs_input_grad
        rows, outputs = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        scaled = (outputs @ up).mul_(ctx.scale)
        into_x = (outputs @ weight).addmm_(scaled, down).view(x.shape) if of_x else None
        into_bias = outputs.sum(0) if of_bias else None
        into_down = scaled.t() @ rows if of_down else None
        into_up = (outputs.t() @ inner).mul_(ctx.scale) if of_up else None
        return into_x, None, into_bias, into_down, into_up, None
