"""Runs of `ppo`: what a rollout makes of answers is the papers', both critics learn and go on where they were stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

import tk
from tk.errors import UsageError
from tk_conformance.methods import check_method
from tk_conformance.online import online_config, online_inputs
from tk_conformance.parity import moved
from tk_conformance.tiny import tiny_checkpoint

TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = online_inputs(tmp_path_factory.mktemp("inputs"))
    tiny_checkpoint(folder / "critic", "llama", vocab=300, hidden=64, head="value")
    other = moved(AutoModelForCausalLM.from_pretrained(folder / "model"))
    tiny_checkpoint(folder / "reference", "llama", vocab=300, hidden=64)
    other.save_pretrained(folder / "reference")  # type: ignore[operator]
    return folder


def config_of(inputs: Path, output: Path, method: Any = "ppo", **sections: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 8, "temperature": TEMPERATURE}
    return online_config(inputs, output, method, **{"sampling": sampling, **sections})


def pending(run: Path, step: int) -> list[dict[str, Any]]:
    """The groups of the rollout that a checkpoint holds."""
    state = json.loads((run / f"checkpoints/step-{step:08d}/state.json").read_text())
    (rank,) = state["progress"]["cursor"]["pending"]["ranks"]
    return [group for window in rank for micro in window for group in micro]


@pytest.mark.parametrize(
    "options",
    [
        {"kl_estimator": "k1", "missing_eos_penalty": 0.5},
        {"kl_estimator": "k3", "whiten_rewards": True, "gamma": 0.9},
        {"whiten_advantages": False, "gae_lambda": 0.7},
    ],
    ids=["penalty", "whitened-rewards", "plain"],
)
def test_what_a_rollout_makes_of_answers_is_the_papers(inputs: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Old log-probs, values, KL rewards, GAE and whitening, from plain transformers models in double precision."""
    method = {
        "name": "ppo",
        "critic": "own",
        "critic_checkpoint": str(inputs / "critic"),
        "reference": str(inputs / "reference"),
        "kl": 0.1,
        **options,
    }
    config = config_of(inputs, tmp_path / "run", method=method, sampling={"max_tokens": 8, "n": 2, "temperature": 0.8})
    tk.train({**config, "train": {**config["train"], "steps": 2, "save_every": 1, "keep_last": 9}})
    answers = [(g["prompt"], a) for g in pending(tmp_path / "run", 1) for a in g["answers"]]
    assert len(answers) == 8
    policy, reference = (AutoModelForCausalLM.from_pretrained(inputs / n).double() for n in ("model", "reference"))
    critic = AutoModelForTokenClassification.from_pretrained(inputs / "critic").double()
    rewards, values, old = [], [], []
    for prompt, answer in answers:
        ids, start = torch.tensor([[*prompt, *answer["ids"]]]), len(prompt) - 1
        logps, theirs = (_logps(net, ids, start) for net in (policy, reference))
        apart = theirs - logps
        kl = -apart if options.get("kl_estimator", "k1") == "k1" else apart.exp() - 1 - apart
        text = answer["text"]
        score = sum("a" <= c <= "z" for c in text) / max(1, len(text))
        score -= options.get("missing_eos_penalty", 0.0) * answer["truncated"]
        each = -0.1 * kl
        each[-1] += score
        assert answer["reward"] == pytest.approx(score)
        assert answer["figures"]["kl"] == pytest.approx(float(kl.sum()), abs=1e-4)
        rewards.append(each)
        old.append(logps)
        with torch.no_grad():
            values.append(critic(input_ids=ids).logits[0, start:-1, 0])
    if options.get("whiten_rewards"):
        flat = torch.cat(rewards)
        rewards = [(r - flat.mean()) / (flat.var() + 1e-8).sqrt() + flat.mean() for r in rewards]
    gamma, lam = options.get("gamma", 1.0), options.get("gae_lambda", 0.95)
    advantages = [_gae(r, v, gamma, lam) for r, v in zip(rewards, values, strict=True)]
    returns = [a + v for a, v in zip(advantages, values, strict=True)]
    residuals = torch.cat(returns) - torch.cat(values)
    explained = 1 - float(residuals.var() / torch.cat(returns).var())
    if options.get("whiten_advantages", True):
        flat = torch.cat(advantages)
        advantages = [(a - flat.mean()) / (flat.var() + 1e-8).sqrt() for a in advantages]
    for at, (_, answer) in enumerate(answers):
        wanted = {"old": old, "values": values, "returns": returns, "advantages": advantages}
        assert set(answer["tokens"]) == {*wanted, "engine"}
        for name, numbers in wanted.items():
            assert answer["tokens"][name] == pytest.approx(numbers[at].tolist(), abs=2e-5), name
        assert answer["figures"]["explained_variance"] == pytest.approx(explained, abs=1e-4)


@torch.no_grad()
def _logps(net: Any, ids: Tensor, start: int) -> Tensor:
    logits = net(input_ids=ids).logits[0, start:-1] / TEMPERATURE
    return logits.log_softmax(-1).gather(1, ids[0, start + 1 :, None])[:, 0]


def _gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    after = torch.cat([values[1:], values.new_zeros(1)])
    residuals = rewards + gamma * after - values
    decay = (gamma * lam) ** np.arange(len(rewards))
    return torch.stack(
        [(residuals[t:] * torch.from_numpy(decay[: len(rewards) - t])).sum() for t in range(len(rewards))]
    )


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["shared", "own"])
def test_a_tiny_model_learns_from_rewards(inputs: Path, tmp_path: Path, critic: str) -> None:
    config = config_of(
        inputs,
        tmp_path / "run",
        method={"name": "ppo", "critic": critic},
        sampling={"max_tokens": 8, "n": 8},
        train={"steps": 60, "batch_size": 8, "micro_batch_size": 8, "log_every": 1},
        eval={"hold_out": 16},
    )
    result = tk.train(config)
    assert result.evals["reward"] > 0.5
    assert result.evals["reward_low"] > result.first["reward_high"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "value" in line]
    assert math.fsum(s["value"] for s in steps[-10:]) < math.fsum(s["value"] for s in steps[:10])
    assert {"reward", "kl", "entropy", "explained_variance", "clipped", "value_clipped"} <= steps[0].keys()


@pytest.mark.parametrize("critic", ["shared", "own"])
@pytest.mark.parametrize("tuner", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_a_stopped_run_goes_on_bit_by_bit(inputs: Path, tmp_path: Path, critic: str, tuner: str) -> None:
    sections = {"method": {"name": "ppo", "critic": critic, "iterations": 3}, "tuner": {"name": tuner}}
    whole = config_of(inputs, tmp_path / "whole", **sections)
    tk.train({**whole, "callbacks": {"interrupt": {"step": 99}}})
    part = config_of(inputs, tmp_path / "part", **sections)
    part["callbacks"] = {"interrupt": {"step": 1}}
    assert tk.train(part).steps == 2
    tk.train({**part, "train": {**part["train"], "resume": True}})
    for name in ("weights", "optimizer"):
        found, wanted = (
            load_file(tmp_path / run / f"checkpoints/step-00000004/{name}.safetensors") for run in ("part", "whole")
        )
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert (tmp_path / "part/samples.jsonl").read_text() == (tmp_path / "whole/samples.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["shared", "own"])
def test_it_trains_the_same_however_it_is_spread(inputs: Path, tmp_path: Path, critic: str) -> None:
    config = config_of(
        inputs,
        tmp_path / "run",
        method={"name": "ppo", "critic": critic, "iterations": 2},
        train={"batch_size": 8},
        optim={"name": "sgd", "lr": 1e-3},
    )
    del config["output"]
    config["train"].pop("micro_batch_size")
    check_method(config, tmp_path, strategies=("ddp",))


def test_the_critic_is_saved_beside_the_policy(inputs: Path, tmp_path: Path) -> None:
    tk.train(config_of(inputs, tmp_path / "shared", method={"name": "ppo", "critic_lr_scale": 3.0}))
    head = load_file(tmp_path / "shared/final/critic/value_head.safetensors")
    assert {name: tuple(t.shape) for name, t in head.items()} == {
        "v_head.summary.weight": (1, 64),
        "v_head.summary.bias": (1,),
    }
    assert head["v_head.summary.weight"].any()
    AutoModelForCausalLM.from_pretrained(tmp_path / "shared/final")
    tk.train(config_of(inputs, tmp_path / "own", method={"name": "ppo", "critic": "own"}))
    critic = AutoModelForTokenClassification.from_pretrained(tmp_path / "own/final/critic")
    assert critic.score.weight.any()
    again = {"name": "ppo", "critic": "own", "critic_checkpoint": str(tmp_path / "own/final/critic")}
    tk.train(config_of(inputs, tmp_path / "again", method=again))


def test_the_critic_has_a_learning_rate_of_its_own(inputs: Path, tmp_path: Path) -> None:
    """One step of plain SGD goes as far as the rate: the head's as far as its factor says."""
    moved_by = []
    for scale in (1.0, 3.0):
        method = {"name": "ppo", "critic_lr_scale": scale}
        run = tmp_path / str(scale)
        optim, train = {"name": "sgd", "lr": 1e-2}, {"steps": 1, "max_grad_norm": None}
        tk.train(config_of(inputs, run, method=method, optim=optim, train=train, scheduler={"name": "constant"}))
        moved_by.append(load_file(run / "final/critic/value_head.safetensors")["v_head.summary.weight"])
    torch.testing.assert_close(moved_by[1], 3 * moved_by[0])


def test_answers_without_a_reward_are_not_trained_on(inputs: Path, tmp_path: Path) -> None:
    config = config_of(inputs, tmp_path / "run", rewards={"silent": 1.0}, train={"steps": 1})
    result = tk.train(config)
    assert result.metrics["loss"] == 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rewards": {}}, "rewards: none is chosen"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature"),
        ({"losses": {"causal-lm": 1.0}}, "losses: causal-lm"),
        ({"strategy": "fsdp"}, "whose weights are sharded"),
        ({"method": {"name": "ppo", "critic_checkpoint": "elsewhere"}}, "method.critic_checkpoint"),
    ],
)
def test_what_is_wrong_is_told(inputs: Path, tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tk.train(config_of(inputs, tmp_path / "run", **sections))
