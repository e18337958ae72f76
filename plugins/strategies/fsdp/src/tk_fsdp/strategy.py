"""The strategy `fsdp`: torch's fully_shard on each transformer block and on the rest of the model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from tk.contracts import Share
from tk_fsdp.options import FsdpOptions
from tk_parallel.blocks import blocks
from tk_parallel.strategy import DTYPES, TorchStrategy


class Fsdp(TorchStrategy):
    """Built as `Fsdp(options)`. A process alone is a group of one, so that it runs the same code."""

    def __init__(self, options: FsdpOptions) -> None:
        super().__init__(options.timeout, always_grouped=True)
        self._options = options

    def spread(self, module: nn.Module, precision: str) -> nn.Module:
        device = torch.device(self.world.device)
        mesh = init_device_mesh(device.type, (self.world.size,))
        dtype = None if precision == "fp32" else DTYPES[precision]
        reduce = None if precision == "fp32" else torch.float32
        reshard = self._options.reshard_after_forward
        for block in blocks(module, self._options.blocks):
            policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce)
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
        # the root is called with token weights and the like, which must keep their precision
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce, cast_forward_inputs=False)
        return fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy)

    def share(self, module: nn.Module, processes: int, precision: str) -> Share:
        """A part of each tensor; and gathered from the others, in the type of the computation: what is in no block from its
        forward to the end of the backward pass, and of the blocks two at a time, the one at work and the next."""
        if processes == 1:
            return Share()
        owned = {id(p): p for p in module.parameters()}
        sizes = []
        for block in blocks(module, self._options.blocks):
            own = {id(p): owned.pop(id(p)) for p in block.parameters() if id(p) in owned}
            sizes.append(sum(map(partial(_gathered, precision=precision), own.values())))
        outside = sum(map(partial(_gathered, precision=precision), owned.values()))
        inside = sum(sorted(sizes)[-2:]) if self._options.reshard_after_forward else sum(sizes)
        part = 1 / processes
        return Share(part, part, part, gathered=outside + inside)

    def synchronise(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(last)
        return nullcontext()

    def plain(self, module: nn.Module) -> nn.Module:
        """The module with its shards in place: a forward without backward leaves gathered weights, which go stale."""
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
        return module


def _gathered(parameter: nn.Parameter, precision: str) -> int:
    """Bytes of a whole parameter; of its gradient too where it has one, and of the copy, in single precision or more, that
    is summed over the processes."""
    size = parameter.element_size() if precision == "fp32" else DTYPES[precision].itemsize
    return parameter.numel() * (2 * size + max(size, 4) if parameter.requires_grad else size)
