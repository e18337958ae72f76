"""Runs of preference pairs and of online RL that are killed in any phase go on bit by bit, and use no rollout twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tk_conformance.online import online_config, online_inputs
from tk_conformance.tiny import tiny_run
from tk_parallel.testing import run_processes

SCRIPT = Path(__file__).parents[1] / "plugins/trainers/torch/tests/killed_runs.py"
FORWARD = "transformers.models.llama.modeling_llama:LlamaModel.forward"
LOADING = "tk_torch.trainer:assemble"
UPDATE = "torch.optim:AdamW.step"
REWARDS = "tk.scoring:Scoring.__call__"
EVALUATION = "tk_torch.trainer:evaluate"


def killed(config: Mapping[str, Any], folder: Path, *moments: str) -> list[str]:
    """A line for each moment: the run was killed there, and came to the same end as one that was not."""
    (folder / "config.json").write_text(json.dumps(config))
    arguments = (str(folder / "config.json"), str(folder / "runs"), *moments)
    (folder / "runs").mkdir()
    return run_processes(SCRIPT, *arguments, world=1, timeout=900)[0].stdout.splitlines()


def grpo(folder: Path) -> dict[str, Any]:
    """Two optimizer steps a rollout, each gone over twice, so that a checkpoint falls amid a rollout."""
    method = {"name": "grpo", "steps_per_rollout": 2, "iterations": 2, "kl": 0.1}
    train = {"steps": 6, "save_every": 1, "keep_last": 2}
    config = online_config(online_inputs(folder), folder / "run", method, train=train)
    return {**config, "tuner": {"name": "lora", "rank": 2}, "eval": {"hold_out": 4, "every": 3}}


def dpo(folder: Path) -> dict[str, Any]:
    rows = [{"prompt": "ab" * i, "chosen": "cd" * (13 - i), "rejected": "ef" * i} for i in range(1, 13)]
    config = tiny_run(folder, rows, method="dpo")
    train = {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "save_every": 2, "keep_last": 2}
    tuner = {"name": "lora", "rank": 2, "dropout": 0.1}
    optim = {"name": "adamw", "lr": 1e-2}
    return {**config, "train": train, "tuner": tuner, "optim": optim, "eval": {"hold_out": 4, "every": 3}}


@pytest.mark.slow
def test_rollouts_that_were_interrupted_are_made_again_and_trained_on_once(tmp_path: Path) -> None:
    assert len(killed(grpo(tmp_path), tmp_path, f"{FORWARD}:1:3", f"{REWARDS}:1:1")) == 2


@pytest.mark.slow
def test_grpo_killed_in_every_phase(tmp_path: Path) -> None:
    moments = (f"{LOADING}:1:0", f"{FORWARD}:8:0", f"{REWARDS}:3:0", f"{UPDATE}:4:0", f"{EVALUATION}:2:0", "random:8:0")
    assert len(killed(grpo(tmp_path), tmp_path, *moments)) == 26


@pytest.mark.slow
def test_dpo_killed_in_every_phase(tmp_path: Path) -> None:
    moments = (f"{LOADING}:1:0", f"{FORWARD}:6:0", f"{UPDATE}:4:0", f"{EVALUATION}:2:0", "random:8:0")
    assert len(killed(dpo(tmp_path), tmp_path, *moments)) == 21
