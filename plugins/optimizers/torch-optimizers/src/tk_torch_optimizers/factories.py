"""Optimizers of torch, from parameter groups with factors on the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tk.contracts import ParamGroup
from tk.errors import UsageError
from tk_torch_optimizers.options import AdafactorOptions, AdamWOptions, SgdOptions


def torch_groups(groups: Sequence[ParamGroup], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups as torch takes them; raises UsageError where nothing is trained."""
    found = [
        {
            "params": list(group.parameters),
            "lr": lr * group.lr_scale,
            "weight_decay": weight_decay if group.decay else 0.0,
            "name": group.name,
        }
        for group in groups
        if len(group.parameters)
    ]
    if not found:
        raise UsageError("Nothing is trained: the tuner left no parameter to the optimizer.")
    return found


class AdamW:
    """Built as `AdamW(options)`."""

    def __init__(self, options: AdamWOptions) -> None:
        self._options = options

    def __call__(self, groups: Sequence[ParamGroup]) -> torch.optim.Optimizer:
        o = self._options
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for g in groups for p in g.parameters)
        made = torch_groups(groups, o.lr, o.weight_decay)
        return torch.optim.AdamW(made, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, fused=fused)


class Sgd:
    """Built as `Sgd(options)`."""

    def __init__(self, options: SgdOptions) -> None:
        if options.nesterov and not options.momentum:
            raise UsageError("optim.nesterov needs optim.momentum above 0.")
        self._options = options

    def __call__(self, groups: Sequence[ParamGroup]) -> torch.optim.Optimizer:
        o = self._options
        made = torch_groups(groups, o.lr, o.weight_decay)
        return torch.optim.SGD(made, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov)


class Adafactor:
    """Built as `Adafactor(options)`."""

    def __init__(self, options: AdafactorOptions) -> None:
        self._options = options

    def __call__(self, groups: Sequence[ParamGroup]) -> torch.optim.Optimizer:
        o = self._options
        made = torch_groups(groups, o.lr, o.weight_decay)
        return torch.optim.Adafactor(made, lr=o.lr, beta2_decay=o.beta2_decay, eps=(None, o.eps), d=o.clip_threshold)
