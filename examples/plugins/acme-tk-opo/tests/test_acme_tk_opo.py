"""The advantage against the paper's formula in plain floats, its use by name, and what a run makes of it."""

import json
import random

import pytest
import torch
from acme_tk_opo.advantage import Opo

import tk
from tk_conformance.online import online_config, online_inputs
from tk_grpo.testing import check_advantage

NAN = float("nan")


def by_hand(rewards, lengths):
    there = [(r, n) for r, n in zip(rewards, lengths, strict=True) if r == r]
    baseline = sum(n * r for r, n in there) / sum(n for _, n in there) if there else 0.0
    return [r - baseline if r == r else 0.0 for r in rewards]


def test_it_is_the_papers_formula():
    draw = random.Random(0)
    rewards = [[draw.choice([0.0, 1.0, 0.3, NAN]) for _ in range(8)] for _ in range(50)]
    lengths = [[float(draw.randint(1, 400)) for _ in range(8)] for _ in range(50)]
    found = Opo()(torch.tensor(rewards, dtype=torch.float64), torch.tensor(lengths, dtype=torch.float64))
    for row, r, n in zip(found.tolist(), rewards, lengths, strict=True):
        assert row == pytest.approx(by_hand(r, n), abs=1e-12)


def test_it_holds_what_is_asked_of_every_advantage():
    check_advantage(Opo())


def test_nothing_to_learn_from_is_zero():
    rewards = torch.tensor([[NAN, NAN], [0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    lengths = torch.tensor([[3, 4], [1, 9], [0, 0]], dtype=torch.float64)
    assert Opo()(rewards, lengths).tolist() == [[0, 0], [0, 0], [0, 0]]


def test_a_run_holds_its_answers_against_that_baseline(tmp_path):
    config = online_config(
        online_inputs(tmp_path), tmp_path / "run", "grpo", advantage="opo", sampling={"max_tokens": 8, "n": 4}
    )
    result = tk.train(config)
    assert result.steps == 4
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    parts = {part["part"]: (part["name"], part["distribution"]) for part in record["parts"]}
    assert parts["advantage"] == ("opo", "acme-tk-opo")
    groups = [json.loads(line)["answers"] for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert any(answer["advantage"] for group in groups for answer in group)
    for group in groups:
        apart = {round(answer["total"] - answer["advantage"], 9) for answer in group}
        assert len(apart) == 1  # one baseline for a group, and no scale
