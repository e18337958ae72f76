"""What a run computes in, and what its weights are kept in."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from tk.compose import Plan
from tk_parallel.strategy import DTYPES, autocast


def computed_in(plan: Plan, device: str) -> str:
    """`train.precision` on a device; where none is named, bf16 where there is hardware for it, else fp32."""
    wish = plan.config.train.precision
    if wish in DTYPES:
        return wish
    has = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has else "fp32"


def loaded_in(plan: Plan, device: str) -> str:
    """`model.dtype` of a run on a device: with "auto" no weight has less precision than the computation."""
    wish = plan.config.model.dtype
    return "fp32" if wish not in DTYPES and computed_in(plan, device) == "fp32" else wish


def keep_updates(plan: Plan, module: nn.Module) -> None:
    """Trained weights in single precision, in which small updates are not rounded away, unless `model.dtype` says more."""
    if plan.config.model.dtype in DTYPES:
        return
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def computing(plan: Plan, device: str) -> AbstractContextManager[object]:
    """Computes in the run's precision what is not called through the wrapped module."""
    return autocast(torch.device(device).type, computed_in(plan, device))
