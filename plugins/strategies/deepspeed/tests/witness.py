"""A callback that tells what of a run is in parts. A plugin file for tests."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tk import CallbackSpec, doc, hookimpl
from tk.callbacks import Base


@dataclass(frozen=True)
class Options:
    """Where it is written."""

    dump: Annotated[str, doc("Folder.")] = ""


class Witness(Base):
    """Of the last step."""

    def __init__(self, options: Options) -> None:
        self.path = Path(options.dump)

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        world = dist.get_world_size() if dist.is_initialized() else 1
        about = {"world": world, "cut": _cut(), **_engine(control.step)}
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / f"witness{os.environ.get('RANK', '0')}.json").write_text(json.dumps(about))


def _cut() -> int:
    """Trained tensors of which `fully_shard` has left a part here."""
    leaves = [o for o in gc.get_objects() if type(o) is DTensor and o.requires_grad and o.is_leaf]
    return sum(leaf.to_local().numel() < leaf.numel() for leaf in leaves)


def _engine(step: int) -> dict[str, Any]:
    """Of DeepSpeed's engine, where the run has one."""
    from tk_deepspeed.strategy import Deepspeed

    engines = [o._engine for o in gc.get_objects() if type(o) is Deepspeed and o._engine is not None]
    if not engines:
        return {}
    (engine,) = engines
    assert engine.global_steps == step
    parameters = list(engine.module.parameters())
    zero = engine.optimizer
    return {
        "stage": int(engine.zero_optimization_stage()),
        "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in parameters),
        "held": sum(p.ds_tensor.numel() if hasattr(p, "ds_tensor") else p.numel() for p in parameters),
        "trained": sum(getattr(p, "ds_numel", p.numel()) for p in parameters if p.requires_grad),
        "updated": _updated(zero),
        "gradients": sum(p.grad is not None for p in parameters),
        "on_cpu": bool(getattr(zero, "cpu_offload", False) or getattr(zero, "offload_optimizer", False)),
    }


def _updated(zero: Any) -> int:
    """Weights with optimizer state in this process."""
    base = zero if isinstance(zero, torch.optim.Optimizer) else zero.optimizer
    return sum(parameter.numel() for parameter in base.state)


@hookimpl
def tk_callbacks() -> Iterable[CallbackSpec]:
    yield CallbackSpec(name="witness", target=Witness, config=Options, summary="For tests.")
