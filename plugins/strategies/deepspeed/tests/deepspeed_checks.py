"""Run as each rank by test_deepspeed_training.py: trains a small model under each config, saves or restores, and compares
with a plain loop in float64.

Arguments: precision, folder for the state, "save", "resume" or "whole", then the strategy's options as JSON, one a run.
"""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from tk.errors import TkError
from tk_deepspeed.options import DeepspeedOptions
from tk_deepspeed.partitions import Partitions
from tk_deepspeed.strategy import Deepspeed


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(7, 7)
        self.adapter = nn.Linear(7, 7, bias=False)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.frozen(x) + self.adapter(x))


class Config:
    hidden_size = 1

    def get_text_config(self) -> "Config":
        return self


class Model(nn.Module):
    """Odd sizes, so that partitions are padded; sizes that "auto" stands for are tiny, so that there are many buckets."""

    config = Config()

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 7)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(7, 1)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        assert weights.dtype == torch.float32
        first, second = self._once(ids), self._once((ids + 1) % 11)
        return {"of": {"sum": ((first.float() - 0.3 * second.float().roll(1) - 1) ** 2 * weights).sum()}}

    def _once(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids).mean(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x).squeeze(-1) * self.scale


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def adamw(module: nn.Module) -> torch.optim.Optimizer:
    """Groups of unequal rates and decay."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    heads = [p for name, p in trained.items() if name.startswith("head")]
    others = [p for name, p in trained.items() if not name.startswith("head")]
    groups = [{"params": others, "lr": 1e-3, "weight_decay": 0.01}, {"params": heads, "lr": 3e-3, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True)


def batches(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Eight micro-batches of unequal sizes; each rank takes as many."""
    made = torch.Generator().manual_seed(step)
    return [
        (torch.randint(0, 11, (n, 5), generator=made), torch.rand(n, generator=made)) for n in (3, 1, 4, 2, 2, 5, 1, 3)
    ]


def reference(steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    plain = model().double()
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer, norms = adamw(plain), []
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate / (step + 1)
        for ids, weights in batches(step):
            first, second = plain._once(ids), plain._once((ids + 1) % 11)
            ((first - 0.3 * second.roll(1) - 1) ** 2 * weights.double()).sum().backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, 0.5)))
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in plain.named_parameters() if p.requires_grad}, norms


def check_sharded(strategy: Deepspeed, wrapped: nn.Module, stage: int, world: int) -> None:
    """After the first of several micro-batches: what the stage shards is really in parts."""
    assert wrapped.zero_optimization_stage() == stage
    parameters = dict(strategy.plain(wrapped).named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    gradients = [name for name, p in trained.items() if p.grad is not None]
    assert len(gradients) == (len(trained) if stage < 2 else 0), gradients
    if stage == 3:
        big = {name: p for name, p in parameters.items() if p.ds_numel > 10}  # ten times the hidden size
        assert len(big) == 7
        assert all(p.ds_tensor.numel() == -(-p.ds_numel // world) for p in big.values())
        assert all(p.numel() == 0 for p in big.values()), "whole where they are not computed with"
    if stage:
        partitions = Partitions(wrapped, dist.get_rank())
        held = sum(flat.numel() for flat, _ in partitions.flats(trained))
        total = sum(getattr(p, "ds_numel", p.numel()) for p in trained.values())
        assert total / world <= held <= total / world + 2 * len(trained), (held, total)


def check_state_sharded(wrapped: nn.Module, world: int) -> None:
    kept = [value for state in wrapped.optimizer.optimizer.state.values() for value in state.values() if value.dim()]
    total = 2 * sum(getattr(p, "ds_numel", p.numel()) for p in wrapped.module.parameters() if p.requires_grad)
    assert kept
    assert sum(value.numel() for value in kept) <= total / world + 4 * len(list(wrapped.module.parameters()))


def window(strategy: Deepspeed, wrapped: nn.Module, step: int, check: bool = False, factor: float = 1.0) -> None:
    world = strategy.world
    each = 8 // world.size
    mine = batches(step)[world.rank * each : (world.rank + 1) * each]
    for i, (ids, weights) in enumerate(mine):
        with strategy.synchronise(wrapped, i + 1 == each):
            strategy.backward(wrapped(ids, weights)["of"]["sum"] * factor)
        if check and i == 0 and each > 1:
            check_sharded(strategy, wrapped, strategy._document.stage, world.size)


def check_scaled(strategy: Deepspeed, wrapped: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The scale of the losses finds its level, and the norm is that of the loss as it is."""
    found = []
    while not found or math.isnan(found[-1]):
        window(strategy, wrapped, 0)
        found.append(strategy.step(wrapped, optimizer))
        assert len(found) < 20
    assert len(found) > 1, "the first scale is too large for this model"
    assert found[-1] == pytest.approx(reference(1)[1][0], rel=1e-2)
    strategy.stop()


def run(precision: str, folder: Path, mode: str, options: dict[str, str]) -> None:
    strategy = Deepspeed(DeepspeedOptions(**options))
    world = strategy.start()
    assert dist.get_world_size() == world.size
    plain = model()
    wrapped, optimizer = strategy.wrap(plain, precision, lambda: adamw(plain), 0.5)
    stage = strategy._document.stage
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [1e-3, 3e-3]
    begin = 0
    if mode == "resume":
        begin = 2
        strategy.restore(wrapped, optimizer, load_file(folder / "weights"), load_file(folder / "state"))
    end = 2 if mode == "save" else 4
    expected, norms = reference(end)
    if precision == "fp16":
        check_scaled(strategy, wrapped, optimizer)
        return
    for step in range(begin, end):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate / (step + 1)
        if step == 1:  # what is dropped or not finite leaves no trace
            window(strategy, wrapped, 77)
            strategy.drop(wrapped, optimizer)
            window(strategy, wrapped, 78, factor=math.inf)
            assert math.isnan(strategy.step(wrapped, optimizer))
        window(strategy, wrapped, step, check=step == 0)
        norm = strategy.step(wrapped, optimizer)
        assert norm == pytest.approx(norms[step], rel=1e-4 if precision == "fp32" else 5e-2), (step, norm, norms)
        with torch.no_grad():
            wrapped.eval()
            wrapped(*batches(step)[0])  # an evaluation between steps; what follows must not mind
            wrapped.train()
    if stage:
        check_state_sharded(wrapped, world.size)

    weights = dict(strategy.weights(wrapped, trainable=True))
    everything = dict(strategy.weights(wrapped, trainable=False))
    part = dict(strategy.weights(plain.blocks, trainable=False))
    state = strategy.optimizer_state(wrapped, optimizer)
    if world.rank == 0:
        shapes = {name: p.shape for name, p in model().named_parameters()}
        assert set(everything) == {*shapes, "scale"}
        assert all(everything[name].shape == shape for name, shape in shapes.items())
        assert all(
            torch.equal(everything[name], p) for name, p in model().named_parameters() if not p.requires_grad
        ) or (precision != "fp32")
        assert torch.equal(part["1.adapter.weight"], everything["blocks.1.adapter.weight"])
        assert set(weights) == set(expected)
        assert {name.rpartition("/")[0] for name in state} == set(expected)
        assert all(float(v) == end for name, v in state.items() if name.endswith("/step"))
        bound = 1e-5 if precision == "fp32" else 1e-2
        worst = max(((weights[n].double() - v).norm() / v.norm()).item() for n, v in expected.items())
        assert worst < bound, worst
        if mode == "save":
            save_file(weights, folder / "weights")
            save_file(dict(state), folder / "state")
        else:
            save_file(weights, folder / f"end-{mode}-{world.size}")
    else:
        assert not weights
        assert not everything
        assert not state
    with pytest.raises(TkError, match="does not"):
        strategy.restore(wrapped, None, {"9.weight": torch.zeros(2)}, {})
    strategy.stop()


precision, folder, mode, *runs = sys.argv[1:]
for given in runs:
    options = json.loads(given)
    own = Path(folder) / str(options.get("preset") or Path(options["config"]).stem)
    own.mkdir(exist_ok=True)
    run(precision, own, mode, options)
    print("checked", own.name)
