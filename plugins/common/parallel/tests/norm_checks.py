"""Run as each of two ranks by test_parallel_norm.py: the norm of sharded gradients is that of the whole ones."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tk_ddp.options import DdpOptions
from tk_ddp.strategy import Ddp

strategy = Ddp(DdpOptions())
world = strategy.start()
mesh = init_device_mesh("cpu", (world.size,))
for dtype, scale in ((torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.float16, 1e4)):
    torch.manual_seed(0)
    whole = [(torch.randn(shape) * scale).to(dtype) for shape in ((7, 3), (5,), (2, 2, 2))]
    expected = torch.cat([value.double().flatten() for value in whole]).norm().item()
    found = strategy.norm([distribute_tensor(value, mesh, [Shard(0)]) for value in whole])
    assert abs(found - expected) <= 1e-6 * expected, (dtype, found, expected)
print("checked")
