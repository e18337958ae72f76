"""Runs of `grpo`, `dapo` and `rloo`: they learn, go on where they were stopped, and say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tk
from tk.errors import TkError, UsageError
from tk_conformance.methods import check_method
from tk_conformance.online import online_config, online_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_inputs(tmp_path_factory.mktemp("inputs"))


def config_of(inputs: Path, output: Path, method: Any = "grpo", **sections: Any) -> dict[str, Any]:
    return online_config(inputs, output, method, **sections)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "dapo", "rloo"])
def test_a_tiny_model_learns_from_rewards(tmp_path: Path, method: str) -> None:
    config = config_of(
        online_inputs(tmp_path, prompts=148),
        tmp_path / "run",
        method=method,
        train={"steps": 60, "batch_size": 8, "micro_batch_size": 8},
        eval={"hold_out": 100, "batch_size": 50},
    )
    result = tk.train(config)
    assert result.evals["reward"] > 0.5
    assert result.evals["reward_low"] > result.first["reward_high"]
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 60 * 8
    assert len(samples[0]["answers"]) == 8
    assert samples[0]["prompt"].startswith("Say ")
    assert sum(a["advantage"] for a in samples[0]["answers"]) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"name": "grpo"}, marks=pytest.mark.slow),
        pytest.param({"name": "grpo", "kl": 0.1}, marks=pytest.mark.slow),
        {"name": "grpo", "steps_per_rollout": 2, "iterations": 2, "kl": 0.1},
    ],
)
def test_a_stopped_run_goes_on_bit_by_bit(inputs: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    whole = config_of(inputs, tmp_path / "whole", method=options, train={"steps": 5})
    tk.train({**whole, "callbacks": {"interrupt": {"step": 99}}})
    part = config_of(inputs, tmp_path / "part", method=options, train={"steps": 5})
    part["callbacks"] = {"interrupt": {"step": 2}}
    assert tk.train(part).steps == 3
    tk.train({**part, "train": {**part["train"], "resume": True}})
    assert same(weights(tmp_path / "part"), weights(tmp_path / "whole"))
    lines = [(tmp_path / name / "samples.jsonl").read_text() for name in ("part", "whole")]
    assert lines[0] == lines[1]


def test_a_rollout_is_trained_on_as_often_as_asked(inputs: Path, tmp_path: Path) -> None:
    options = {"name": "grpo", "steps_per_rollout": 2, "iterations": 2}
    tk.train(config_of(inputs, tmp_path / "run", method=options, train={"steps": 8}))
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [1] * 8 + [5] * 8
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in log if line.get("kind") == "train"][:4] == pytest.approx(
        [log[0]["reward"], log[1]["reward"]] * 2
    )


def test_it_trains_the_same_however_it_is_spread(inputs: Path, tmp_path: Path) -> None:
    """Each prompt's answers depend on its seed only, so that processes and accumulation change nothing."""
    config = config_of(
        inputs, tmp_path / "run", method={"name": "grpo", "kl": 0.1}, train={"batch_size": 8, "steps": 2}
    )
    del config["output"]
    config["train"].pop("micro_batch_size")
    config["optim"] = {"name": "sgd", "lr": 1e-3}
    check_method(config, tmp_path, strategies=("ddp",))


def test_a_reward_that_does_not_apply_changes_nothing(inputs: Path, tmp_path: Path) -> None:
    tk.train(config_of(inputs, tmp_path / "one"))
    tk.train(config_of(inputs, tmp_path / "two", rewards={"letters": 1.0, "silent": 5.0}))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"rewards": {}}, UsageError, "rewards: none is chosen"),
        ({"sampling": {"n": 1}}, UsageError, "sampling.n"),
        ({"sampling": {"temperature": 0}}, UsageError, "sampling.temperature"),
        ({"rewards": {"broken": 1.0}}, TkError, "rewards.broken: it returned 31 scores for 32 completions"),
        ({"losses": {"causal-lm": 1.0}}, UsageError, "losses: causal-lm"),
        ({"strategy": "fsdp"}, UsageError, "whose weights are sharded"),
    ],
)
def test_what_is_wrong_is_told(
    inputs: Path, tmp_path: Path, sections: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tk.train(config_of(inputs, tmp_path / "run", **sections))
