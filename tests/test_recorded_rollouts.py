"""Online methods train alike on the same answers, on one process and on two, whatever holds the weights, of which an engine
with weights of its own gets the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tk_conformance.methods import check_method
from tk_conformance.online import online_config, online_inputs

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("lora", {"name": "grpo", "kl": 0.1, "iterations": 2, "steps_per_rollout": 2}),
    "dapo": ("full", {"name": "dapo"}),
    "rloo": ("lora", {"name": "rloo"}),
    "ppo": ("lora", {"name": "ppo"}),
    "ppo-own": ("full", {"name": "ppo", "critic": "own"}),
}
ROLLED_OUT_AGAIN = ("dapo", "rloo")
"""Those whose four steps are more than one rollout, so that the engine has got weights that were trained."""


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
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
    alone, *others = (load_file(tmp_path / run / "engine/received.safetensors") for run in ("whole", "ddp", "fsdp"))
    begun = AutoModelForCausalLM.from_pretrained(config["model"]).state_dict()
    assert alone.keys() == begun.keys()
    again = name in ROLLED_OUT_AGAIN
    assert any(not torch.equal(alone[key], value) for key, value in begun.items()) == again
    for received in others:
        assert received.keys() == alone.keys()
        for key, value in alone.items():
            assert (received[key] - value).norm() <= 1e-5 * value.norm(), key
