"""Processes join, tell one another and leave; alone there is no process group."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tk.errors import UsageError
from tk_parallel import processes
from tk_parallel.scale import LossScale
from tk_parallel.state import load_optimizer_state
from tk_parallel.testing import run_processes


def test_two_processes_sum_gather_and_decide() -> None:
    done = run_processes(Path(__file__).with_name("process_checks.py"), world=2)
    assert [p.stdout.strip() for p in done] == ["checked 0", "checked 1"]


def test_alone_there_is_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = processes.join(60)
    assert (world.rank, world.size) == (0, 1)
    assert not dist.is_initialized()
    values = torch.rand(3, 2)
    assert torch.equal(processes.gather(values)[0], values)
    assert torch.equal(processes.all_reduce(values), values)
    assert processes.decide(processes.gather, {"a": [1]}) == {"a": [1]}


def test_an_incomplete_environment_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        processes.join(60)


def test_the_loss_scale_falls_on_overflow_and_grows_after_patience() -> None:
    scale = LossScale(value=8.0, patience=2)
    scale.update(finite=False)
    assert scale.value == 4.0
    scale.update(finite=True)
    scale.update(finite=True)
    assert scale.value == 8.0
    other = LossScale()
    other.load(scale.state())
    assert (other.value, other.good) == (scale.value, scale.good)


@pytest.mark.parametrize(("options", "device"), [({"capturable": True}, "meta"), ({}, "cpu")])
def test_steps_are_counted_where_the_optimizer_counts_them(options: dict[str, bool], device: str) -> None:
    module = torch.nn.Linear(2, 1, bias=False, device="meta")
    optimizer = torch.optim.AdamW(module.parameters(), **options)
    load_optimizer_state(module, optimizer, {"weight/step": torch.tensor(3.0), "weight/exp_avg": torch.zeros(1, 2)})
    state = optimizer.state[module.weight]
    assert state["step"].device.type == device
    assert state["exp_avg"].device.type == "meta"


def test_moments_have_the_type_that_the_weights_have_now() -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.AdamW(module.parameters())
    saved = {"weight/step": torch.tensor(3.0), "weight/exp_avg": torch.ones(1, 2, dtype=torch.bfloat16)}
    load_optimizer_state(module, optimizer, saved | {"weight/exp_avg_sq": torch.ones(1, 2, dtype=torch.bfloat16)})
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.state[module.weight]["exp_avg"].dtype == torch.float32
