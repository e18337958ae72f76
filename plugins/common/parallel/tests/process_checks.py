"""Run as each of two ranks by test_parallel_processes.py: what collectives bring."""

import pytest
import torch
import torch.distributed as dist

from tk.errors import TkError
from tk_parallel import processes

world = processes.join(60)
assert dist.get_world_size() == world.size == 2
rank = world.rank

total = processes.all_reduce(torch.tensor([1 + 1e-15 * rank, 2.0], dtype=torch.float64))
assert total.dtype == torch.float64
assert total[0].item() == 2 + 1e-15

for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
    own = torch.arange(3 * (2 + 3 * rank)).reshape(-1, 3).to(dtype)
    parts = processes.gather(own)
    assert [p.shape[0] for p in parts] == [2, 5]
    assert all(p.dtype == dtype for p in parts)
    assert torch.equal(parts[rank], own)
    assert torch.equal(parts[1][:2], parts[0])

empty = processes.gather(torch.ones(rank * 4, 2))
assert [tuple(p.shape) for p in empty] == [(0, 2), (4, 2)]

with pytest.raises(TkError, match="first dimension"):
    processes.gather(torch.ones(2, 3 + rank))

told = processes.exchange(processes.gather, {"rank": rank, "value": 0.1 + rank, "name": "ä" * rank})
assert told == [{"rank": 0, "value": 0.1, "name": ""}, {"rank": 1, "value": 1.1, "name": "ä"}]
assert processes.decide(processes.gather, f"from {rank}") == "from 0"
processes.leave()
assert processes.join(60) == world, "a second run in the same processes"
assert processes.exchange(processes.gather, rank) == [0, 1]
print("checked", rank)
