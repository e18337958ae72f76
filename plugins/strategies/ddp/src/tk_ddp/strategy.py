"""The strategy `ddp`: the module itself where the process is alone, DistributedDataParallel where it is not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tk.contracts import Share
from tk.errors import TkError
from tk_ddp.options import DdpOptions
from tk_parallel.strategy import Autocast, TorchStrategy


class Ddp(TorchStrategy):
    """Built as `Ddp(options)`."""

    def __init__(self, options: DdpOptions) -> None:
        super().__init__(options.timeout)
        self._options = options

    def spread(self, module: nn.Module, precision: str) -> nn.Module:
        device = torch.device(self.world.device)
        module = module.to(device)
        if precision != "fp32":
            module = Autocast(module, device.type, precision)
        if self.world.size == 1:
            return module
        frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
        # Every process has read them from one checkpoint; and a module that leaves the run later is not held on to.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, frozen)
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            forward_sync_buffers=False,
            find_unused_parameters=self._options.find_unused_parameters,
            gradient_as_bucket_view=True,
            bucket_cap_mb=self._options.bucket_mb,
        )

    def share(self, module: nn.Module, processes: int, precision: str) -> Share:
        """All of everything; among others, the buckets that gradients are exchanged in hold them all the time."""
        return Share(kept=processes > 1)

    def plain(self, module: nn.Module) -> nn.Module:
        while isinstance(module, DistributedDataParallel | Autocast):
            module = module.module
        return module

    def synchronise(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        if self.world.size > 1 and not self._options.find_unused_parameters:
            self._all_have_gradients(module)
        return super().step(module, optimizer)

    def _all_have_gradients(self, module: nn.Module) -> None:
        """DistributedDataParallel leaves gradients unexchanged, without a word, where one of them never came."""
        unused = [n for n, p in self.plain(module).named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise TkError(
                f"{len(unused)} trained parameters got no gradient ({unused[0]}, …), so the processes would drift "
                "apart: freeze them, or set strategy.find_unused_parameters."
            )
