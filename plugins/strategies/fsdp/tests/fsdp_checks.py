"""Run as each rank by test_fsdp_training.py: trains a small model sharded, saves or restores, and compares with a plain loop.

Arguments: precision, folder for the state, "save" or "resume".
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from tk_fsdp.options import FsdpOptions
from tk_fsdp.strategy import Fsdp
from tk_parallel.blocks import blocks


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 6)
        self.adapter = nn.Linear(6, 6, bias=False)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.frozen(x) + self.adapter(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(6, 1)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        assert weights.dtype == torch.float32
        first, second = self._once(ids), self._once((ids + 1) % 11)
        return {"sum": ((first.float() - 0.3 * second.float().roll(1) - 1) ** 2 * weights).sum()}

    def _once(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids).mean(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x).squeeze(-1) * self.scale


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def batches(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Four micro-batches of unequal sizes; rank r of two takes 2r and 2r + 1."""
    made = torch.Generator().manual_seed(step)
    return [(torch.randint(0, 11, (n, 5), generator=made), torch.rand(n, generator=made)) for n in (3, 1, 4, 2)]


def reference(steps: int) -> dict[str, torch.Tensor]:
    plain = model().double()
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    for step in range(steps):
        for ids, weights in batches(step):
            first, second = plain._once(ids), plain._once((ids + 1) % 11)
            ((first - 0.3 * second.roll(1) - 1) ** 2 * weights.double()).sum().backward()
        nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in plain.named_parameters() if p.requires_grad}


precision, folder, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
strategy = Fsdp(FsdpOptions())
world = strategy.start()
assert dist.get_world_size() == world.size
plain = model()
wrapped, optimizer = strategy.wrap(
    plain,
    precision,
    lambda: torch.optim.AdamW(
        [p for p in plain.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.01, fused=True
    ),
    0.5,
)
assert len(blocks(wrapped)) == 3
shards = [p for p in wrapped.parameters() if isinstance(p, DTensor)]
assert len(shards) == len(list(wrapped.parameters()))
assert world.size == 1 or any(p.to_local().numel() < p.numel() for p in shards)
begin = 0
if mode == "resume":
    begin = 2
    strategy.restore(wrapped, optimizer, load_file(folder / "weights"), load_file(folder / "state"))
end = 2 if mode == "save" else 4
seen = []
for step in range(begin, end):
    mine = batches(step)[world.rank * 4 // world.size : (world.rank + 1) * 4 // world.size]
    for i, (ids, weights) in enumerate(mine):
        seen.append(ids)
        with strategy.synchronise(wrapped, i + 1 == len(mine)):
            strategy.backward(wrapped(ids, weights)["sum"])
    norm = strategy.step(wrapped, optimizer)
    assert norm > 0 or precision == "fp16"  # the scale has yet to find its level
    with torch.no_grad():
        wrapped(*mine[0])  # an evaluation leaves the root gathered; what follows must not mind
others = strategy.gather(torch.cat([s.float().mean(1) for s in seen]))
assert world.size == 1 or not torch.equal(others[0][:3], others[1][:3])

weights = dict(strategy.weights(wrapped, trainable=True))
everything = dict(strategy.weights(wrapped, trainable=False))
state = strategy.optimizer_state(wrapped, optimizer)
if world.rank == 0:
    assert set(everything) == {*(n for n, _ in model().named_parameters()), "scale"}
    expected = reference(end)
    assert set(weights) == set(expected)
    if precision == "fp32":
        worst = max(((weights[n].double() - v).norm() / v.norm()).item() for n, v in expected.items())
        assert worst < 1e-5, worst
    if mode == "save":
        save_file(weights, folder / "weights")
        save_file(dict(state), folder / "state")
    else:
        save_file(weights, folder / f"end-{mode}-{world.size}")
else:
    assert not weights
    assert not state
strategy.stop()
print("checked")
