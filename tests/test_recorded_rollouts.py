"""Online methods train alike on the same recorded answers whatever holds the weights: replicas or shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tk_conformance.online import online_config, online_inputs
from tk_conformance.train_many import train_many

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo", "kl": 0.1, "iterations": 4},
    "dapo": {"name": "dapo", "iterations": 4},
    "ppo": {"name": "ppo"},
    "ppo-own": {"name": "ppo", "critic": "own"},
}


STRATEGIES = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, each stopped after the first of four steps on one rollout, and gone on with under each
    strategy: `METHOD/begun`, `METHOD/STRATEGY`."""
    folder = tmp_path_factory.mktemp("runs")
    inputs = online_inputs(folder)
    configs = {
        name: online_config(
            inputs,
            folder / name / "begun",
            method,
            tuner={"name": "lora"},
            optim={"name": "sgd", "lr": 1e-2},
            callbacks={"interrupt": {"step": 1}},
            train={"batch_size": 5},
        )
        for name, method in METHODS.items()
    }
    train_many(list(configs.values()), world=2)
    further = []
    for name, config in configs.items():
        for strategy in STRATEGIES:
            shutil.copytree(folder / name / "begun", folder / name / strategy)
            train = {**config["train"], "resume": True}
            further.append({**config, "strategy": strategy, "train": train, "output": str(folder / name / strategy)})
    train_many(further, world=2)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_replicas_and_shards_train_alike_on_recorded_answers(runs: Path, name: str) -> None:
    (checkpoint,) = (runs / name / "begun/checkpoints").iterdir()
    ranks = json.loads((checkpoint / "state.json").read_text())["progress"]["cursor"]["pending"]["ranks"]
    assert len(ranks) == 2
    paths = {strategy: runs / name / strategy / "checkpoints/step-00000004" for strategy in STRATEGIES}
    found = {strategy: load_file(path / "weights.safetensors") for strategy, path in paths.items()}
    before = load_file(checkpoint / "weights.safetensors")
    assert found["ddp"].keys() == found["fsdp"].keys() == before.keys()
    for key, weights in found["ddp"].items():
        torch.testing.assert_close(found["fsdp"][key], weights, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(before[key], found["ddp"][key]) for key in before)
