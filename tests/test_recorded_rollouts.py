"""Online methods train alike on the same answers, on one process and on two, whatever holds the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tk_conformance.methods import check_method
from tk_conformance.online import online_config, online_inputs

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("lora", {"name": "grpo", "kl": 0.1, "iterations": 2, "steps_per_rollout": 2}),
    "dapo": ("full", {"name": "dapo"}),
    "rloo": ("lora", {"name": "rloo"}),
    "ppo": ("lora", {"name": "ppo"}),
    "ppo-own": ("full", {"name": "ppo", "critic": "own"}),
}


@pytest.mark.parametrize("name", ["grpo", *(pytest.param(n, marks=pytest.mark.slow) for n in METHODS if n != "grpo")])
def test_neither_processes_nor_accumulation_nor_the_strategy_change_anything(name: str, tmp_path: Path) -> None:
    tuner, method = METHODS[name]
    config = online_config(
        online_inputs(tmp_path),
        tmp_path / "run",
        method,
        engine="recorded",
        tuner={"name": tuner},
        optim={"name": "sgd", "lr": 1e-3},
        train={"batch_size": 8, "steps": 4},
    )
    del config["output"], config["train"]["micro_batch_size"]
    check_method(config, tmp_path, strategies=("ddp", "fsdp"))
