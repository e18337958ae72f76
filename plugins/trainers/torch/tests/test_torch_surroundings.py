"""Runs whose forwards run within something: noise on embeddings, activations that wait on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tk
from tk.errors import UsageError

Configured = Callable[..., dict[str, Any]]
NOISE = {"neftune_alpha": 5.0}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")


def test_a_run_with_noise_is_reproduced_and_resumed_exactly(configured: Configured, tmp_path: Path) -> None:
    whole = tk.train(configured(tmp_path / "whole", train=NOISE))
    again = tk.train(configured(tmp_path / "again", train=NOISE))
    config = configured(tmp_path / "run", train=NOISE, callbacks={"signal-at": {"step": 2}})
    assert tk.train(config).steps == 3
    tk.train({**config, "train": {**config["train"], "resume": True}})
    without = tk.train(configured(tmp_path / "without"))
    found = weights(whole.output)
    for name, value in found.items():
        assert torch.equal(value, weights(again.output)[name])
        assert torch.equal(value, weights(tmp_path / "run")[name])
    assert any(not torch.equal(value, weights(without.output)[name]) for name, value in found.items())


def test_evaluation_has_no_noise(configured: Configured, tmp_path: Path) -> None:
    held = {"eval": {"hold_out": 6}}
    plain = tk.train(configured(tmp_path / "plain", **held))
    noisy = tk.train(configured(tmp_path / "noisy", train={"neftune_alpha": 100.0}, **held))
    assert noisy.first == plain.first
    assert noisy.metrics["loss"] != plain.metrics["loss"]


def test_what_is_generated_by_the_model_itself_is_not_trained_on_with_noise(
    configured: Configured, tmp_path: Path
) -> None:
    config = configured(tmp_path, train=NOISE, method="grpo", rewards="format")
    with pytest.raises(UsageError, match=r"train\.neftune_alpha needs 'embedding-noise', which method \(grpo of .*\)"):
        tk.plan(config)


def test_pairs_with_noise_share_no_beginning(configured: Configured, tmp_path: Path) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text('{"prompt": "How many are there in all of it?", "chosen": "Four.", "rejected": "Five."}\n' * 4)
    result = tk.train(configured(tmp_path / "run", data=str(rows), method="dpo", train={**NOISE, "steps": 2}))
    assert result.steps == 2


@pytest.mark.parametrize("act", [tk.plan, tk.train])
def test_activations_are_not_moved_from_the_cpu_to_the_cpu(
    configured: Configured, tmp_path: Path, act: Callable[..., Any]
) -> None:
    config = configured(tmp_path / "run", train={"activation_offload": True})
    with pytest.raises(UsageError, match=r"train\.activation_offload: this run computes on the CPU.*leave it out"):
        act(config)
    assert not (tmp_path / "run").exists()
