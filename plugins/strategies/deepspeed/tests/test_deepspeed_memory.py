"""What a process holds: as its stage says, and as an engine of DeepSpeed does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tk
from tk.contracts import Share
from tk_conformance.tiny import tiny_run
from tk_deepspeed.document import document_of
from tk_deepspeed.options import DeepspeedOptions
from tk_deepspeed.share import share_of
from tk_parallel.testing import run_processes

NUMBERS = 64 * 64
BUCKET = 4 * 32 * 32
Processes = Mapping[str, str]


def share(preset: Any, precision: str = "fp32", *, apart: bool = False) -> Share:
    """Of two layers, one of which is frozen, on 8 processes."""
    module = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(2))
    module[0].requires_grad_(False)
    document = document_of(DeepspeedOptions(preset=preset))
    return share_of(document, module, 8, precision, hidden=32, apart=apart)


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        ("zero0", (1, 1, 1)),
        ("zero1", (1, 1, 1 / 8)),
        ("zero2", (1, 1 / 8, 1 / 8)),
        ("zero3", (1 / 8, 1 / 8, 1 / 8)),
        ("zero2_offload", (1, 1 / 8, 1 / 8)),
        ("zero3_offload", (1 / 8, 1 / 8, 1 / 8)),
    ],
)
def test_each_stage_has_its_parts_in_shares(preset: str, parts: tuple[float, ...]) -> None:
    found = share(preset)
    assert (found.weights, found.gradients, found.optimizer) == parts


def test_weights_in_bf16_are_half_and_updated_in_single_precision() -> None:
    assert (share("zero1", "bf16").weights, share("zero3", "bf16").weights) == (1 / 2, 1 / 16)
    assert share("zero1", "bf16").gathered == 4 * NUMBERS / 8
    assert share("zero2", "bf16").gathered == 4 * NUMBERS / 8 + BUCKET
    assert share("zero3", "bf16").gathered == 4 * NUMBERS / 8 + BUCKET + 2 * 2 * NUMBERS


def test_what_is_offloaded_leaves_a_device_that_is_not_the_cpu() -> None:
    assert share("zero2_offload", apart=True) == Share(1.0, 0.0, 0.0, gathered=BUCKET)
    found = share("zero3_offload", apart=True)
    assert (found.weights, found.gradients, found.optimizer) == (0, 0, 0)
    assert found.gathered == BUCKET + 2 * 4 * NUMBERS


@pytest.mark.usefixtures("processes")
def test_a_plan_tells_a_process_of_many(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, [{"prompt": "1?", "completion": "one"}] * 16, tuner="full", optim="adamw")
    strategy = {"name": "deepspeed", "preset": "zero3", "accelerator": "cpu"}
    whole, part = tk.plan(config), tk.plan({**config, "strategy": strategy, "launcher": {"processes": 8}})
    assert whole.memory is not None
    assert part.memory is not None
    assert part.memory.optimizer == pytest.approx(whole.memory.optimizer / 8, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "precision"),
    [
        ("zero1", "bf16"),
        ("zero2", "fp32"),
        ("zero3", "fp32"),
        ("zero3", "bf16"),
        ("zero2_offload", "bf16"),
        ("zero3_offload", "fp32"),
    ],
)
def test_it_is_what_an_engine_holds(processes: Processes, preset: str, precision: str) -> None:
    script = Path(__file__).with_name("memory_checks.py")
    first, _ = run_processes(script, preset, precision, world=2, environment=processes, timeout=300)
    found = json.loads(first.stdout.splitlines()[-1])
    assert 0.8 * found["held"] < found["told"] < 1.2 * found["held"], found
