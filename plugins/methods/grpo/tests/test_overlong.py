"""The penalty on long answers: TRL's numbers, and where in a run it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trl.rewards import get_soft_overlong_punishment

import tk
from tk_conformance.online import online_config, online_inputs
from tk_grpo.rollouts import punish
from tk_rollouts.answers import Answer, Group


@pytest.mark.parametrize(("limit", "margin"), [(20, 4), (20, 20), (7, 3)])
def test_it_is_trls(limit: int, margin: int) -> None:
    answers = [Answer([1] * length, reward=0.5) for length in range(limit + 1)]
    punish(Group([0], answers), margin, limit)
    wanted = get_soft_overlong_punishment(limit, margin)(completion_ids=[answer.ids for answer in answers])
    assert [answer.reward - 0.5 for answer in answers] == pytest.approx(wanted)


def test_nothing_is_taken_where_it_is_off() -> None:
    answers = [Answer([1] * 9, reward=0.5)]
    punish(Group([0], answers), 0.0, 9)
    assert answers[0].reward == 0.5
    assert not answers[0].figures


def test_answers_are_held_against_one_another_by_it_and_held_out_rewards_are_without(tmp_path: Path) -> None:
    """Every reward is 1 here, so that what is learned is to be short."""
    inputs = online_inputs(tmp_path)
    (tmp_path / "ever.py").write_text(
        "def ever(prompts, completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    config = online_config(
        inputs,
        tmp_path / "run",
        {"name": "dapo", "overlong": 1.0, "resample": 0},
        rewards={"ever": 1.0},
        plugins={"files": [str(tmp_path / "ever.py")]},
        train={"steps": 60, "batch_size": 8, "micro_batch_size": 8},
        eval={"hold_out": 16},
    )
    result = tk.train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert all(line["reward"] == pytest.approx(1 + line["overlong"]) for line in steps)
    assert result.evals["reward"] == result.first["reward"] == 1.0
    assert sum(line["answer_tokens"] for line in steps[-5:]) < 0.8 * sum(line["answer_tokens"] for line in steps[:5])
