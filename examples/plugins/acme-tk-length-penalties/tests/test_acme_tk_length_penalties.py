"""The two penalties, and the command that applies the one that the config chooses."""

import asyncio
import json

import pytest
from acme_tk_length_penalties.command import lengths
from acme_tk_length_penalties.options import OverlongOptions
from acme_tk_length_penalties.penalties import GroupRange, Overlong

from tk.api import load_config
from tk.contracts import Scored
from tk.errors import DataError, UsageError
from tk.sample import Message
from tk.testing import check_reward


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [("rows.jsonl:1", 100), ("rows.jsonl:1", 300), ("rows.jsonl:1", 200), ("rows.jsonl:2", 288)]
    path.write_text("".join(json.dumps({"origin": origin, "tokens": tokens}) + "\n" for origin, tokens in rows))
    return path


def printed(capsys):
    return [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]


def test_overlong_is_zero_then_linear_then_flat():
    assert Overlong(OverlongOptions(limit=10, margin=4))([0, 10, 11, 14, 99]) == [0, 0, -0.25, -1, -1]


def test_group_range_ranks_the_answers_to_one_prompt():
    assert GroupRange()([10, 30, 20]) == [0.5, -0.5, 0.0]
    assert GroupRange()([7, 7]) == [0.0, 0.0]
    assert GroupRange()([]) == []


def test_the_command_uses_the_kinds_default(answers, capsys):
    lengths(answers)
    assert printed(capsys) == [0.0, -44 / 64, 0.0, -0.5]


def test_the_command_uses_what_the_config_chooses(answers, capsys, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("penalty:\n  name: overlong\n  limit: 200\n  margin: 100\n")
    lengths(answers, config=config)
    assert printed(capsys) == [0.0, -1.0, 0.0, -0.88]


def test_a_penalty_by_name(answers, capsys):
    lengths(answers, penalty="group-range")
    assert printed(capsys) == [0.5, -0.5, 0.0, 0.0]


def test_what_is_wrong_is_said(answers, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'overlong'"):
        lengths(answers, penalty="overlang")
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"origin": "a:1", "tokens": 3}\n')
    with pytest.raises(UsageError, match="sampling.n"):
        lengths(alone, penalty="group-range")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"origin": "a:1"}\n')
    with pytest.raises(DataError, match=r"broken.jsonl:1: no answer"):
        lengths(broken)


def test_the_reward_takes_the_penalty_that_the_section_chooses():
    config = load_config(penalty={"name": "overlong", "limit": 2, "margin": 4}, rewards={"length-penalty": 1.0})
    reward = config.groups["rewards"]["length-penalty"].build()
    batch = Scored([()] * 3, [Message("assistant", "x")] * 3, completion_ids=[(1,), (1,) * 4, (1,) * 9])
    assert list(asyncio.run(reward(batch))) == [0.0, -0.5, -1.0]
    check_reward(reward)
