"""Run as each of two ranks by test_ddp_training.py: sums of gradients, accumulation, and parameters left out."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tk.errors import TkError
from tk_ddp.options import DdpOptions
from tk_ddp.strategy import Ddp


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
        return self.first(x).sum() + (self.second(x).sum() if both else 0)


def module() -> Two:
    torch.manual_seed(0)
    return Two()


def rows(rank: int) -> list[torch.Tensor]:
    return [torch.full((1 + rank, 3), 1.0 + rank), torch.full((2, 3), 0.5 + rank)]


strategy = Ddp(DdpOptions())
world = strategy.start()
assert dist.get_world_size() == world.size == 2
inner = module()
wrapped, optimizer = strategy.wrap(inner, "fp32", lambda: torch.optim.SGD(inner.parameters(), lr=0.1), 1.0)
for number, x in enumerate(rows(world.rank)):
    with strategy.synchronise(wrapped, number == 1):
        strategy.backward(wrapped(x, True))
alone = module()
for rank in range(2):
    for x in rows(rank):
        alone(x, True).backward()
expected = torch.cat([p.grad.flatten() for p in alone.parameters()])
found = torch.cat([p.grad.flatten() for p in wrapped.parameters()])
torch.testing.assert_close(found, expected)
norm = strategy.step(wrapped, optimizer)
assert norm == pytest.approx(expected.norm().item())
assert not any(p.grad is not None and p.grad.any() for p in wrapped.parameters())
moved = torch.cat([(a - b).flatten() for a, b in zip(module().parameters(), wrapped.parameters(), strict=True)])
torch.testing.assert_close(moved.detach(), 0.1 * expected / norm, rtol=1e-4, atol=1e-6)

strategy.backward(wrapped(rows(world.rank)[0], False))
with pytest.raises(TkError, match="second.weight.*find_unused_parameters"):
    strategy.step(wrapped, optimizer)

allowing = Ddp(DdpOptions(find_unused_parameters=True))
allowing.start()
other = module()
wrapped, optimizer = allowing.wrap(other, "fp32", lambda: torch.optim.SGD(other.parameters(), lr=0.1), None)
for both in (world.rank == 0, False):  # one rank uses the second layer once
    allowing.backward(wrapped(rows(world.rank)[0], both))
    allowing.step(wrapped, optimizer)
every = allowing.gather(torch.cat([p.detach().flatten() for p in wrapped.parameters()])[None])
assert torch.equal(every[0], every[1])
print("checked")
