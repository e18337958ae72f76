"""What the strategies built on torch.distributed share: the group, the update, and the way into and out of checkpoints.

A strategy adds how the module is wrapped and when gradients are exchanged.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tk.contracts import World
from tk_parallel import processes, state
from tk_parallel.scale import LossScale

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device_type: str, precision: str) -> AbstractContextManager[object]:
    """Computes in the precision "bf16" or "fp16", or as it stands."""
    return nullcontext() if precision == "fp32" else torch.autocast(device_type, DTYPES[precision])


class Autocast(nn.Module):
    """Calls a module under autocast, so that every caller of the wrapped module computes in the run's precision."""

    def __init__(self, module: nn.Module, device_type: str, precision: str) -> None:
        super().__init__()
        self.module = module
        self._device_type = device_type
        self._precision = precision

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        with autocast(self._device_type, self._precision):
            return self.module(*arguments, **keywords)


class TorchStrategy(ABC):
    """The part of a Strategy that does not depend on the wrapper. Wrappers average gradients; `backward` undoes it."""

    def __init__(self, timeout: float, *, always_grouped: bool = False) -> None:
        self.world = World(0, 1, "cpu")
        self._timeout = timeout
        self._always_grouped = always_grouped
        self._joined = False
        self._scale: LossScale | None = None
        self._max_norm: float | None = None

    def start(self) -> World:
        self._joined = not torch.distributed.is_initialized()
        self.world = processes.join(self._timeout, always=self._always_grouped)
        return self.world

    def stop(self) -> None:
        if self._joined:
            processes.leave()

    def plain(self, module: nn.Module) -> nn.Module:
        """The module inside the wrappers, whose parameter names are the checkpoint's."""
        return module

    @abstractmethod
    def spread(self, module: nn.Module, precision: str) -> nn.Module:
        """The wrapped module."""

    def wrap(
        self,
        module: nn.Module,
        precision: str,
        optimizer: Callable[[], torch.optim.Optimizer],
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._scale = LossScale() if precision == "fp16" else None
        self._max_norm = max_norm
        return self.spread(module, precision), optimizer()

    def backward(self, loss: Tensor) -> None:
        factor = self.world.size * (self._scale.value if self._scale else 1.0)
        (loss if factor == 1 else loss * factor).backward()

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        scale = self._scale.value if self._scale else 1.0
        norm = self.norm(gradients) / scale
        finite = math.isfinite(norm)
        if finite:
            factor = (min(1.0, self._max_norm / (norm + 1e-6)) if self._max_norm else 1.0) / scale
            if factor != 1:
                torch._foreach_mul_(gradients, factor)
            self.update(module, optimizer)
        if self._scale:
            self._scale.update(finite)
        self.drop(module, optimizer)
        return norm if finite else math.nan

    def norm(self, gradients: list[Tensor]) -> float:
        """L2 norm over all parameters and, where they are sharded, over all ranks; in single precision, whatever theirs is."""
        if not gradients:
            return 0.0
        norms = torch._foreach_norm(gradients, 2.0, dtype=torch.float32)
        total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
        return float(total.full_tensor() if isinstance(total, DTensor) else total)

    def update(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Change the weights by the gradients as they stand."""
        optimizer.step()

    def drop(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)

    def sum(self, values: Tensor) -> Tensor:
        return processes.all_reduce(values)

    def gather(self, values: Tensor) -> list[Tensor]:
        return processes.gather(values)

    def weights(self, module: nn.Module, trainable: bool) -> Iterator[tuple[str, Tensor]]:
        return state.weights(self.plain(module), trainable=trainable, receive=self.world.rank == 0)

    def optimizer_state(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
        receive = self.world.rank == 0
        found = state.optimizer_state(self.plain(module), optimizer, receive=receive)
        return {**found, **(self._scale.state() if self._scale and receive else {})}

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        weights: Mapping[str, Tensor],
        state_: Mapping[str, Tensor],
    ) -> None:
        inner = self.plain(module)
        state.load_weights(inner, weights)
        if optimizer is None:
            return
        own = {name: value for name, value in state_.items() if name.startswith("loss_scale/")}
        state.load_optimizer_state(inner, optimizer, {k: v for k, v in state_.items() if k not in own})
        if self._scale and own:
            self._scale.load(own)
