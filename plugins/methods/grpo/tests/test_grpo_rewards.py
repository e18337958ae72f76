"""Rewards in a run: files of other frameworks, and rewards that misbehave, on one process and on two."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tk
from tk.errors import DataError, StuckError, TkError, TkWarning, UsageError
from tk_conformance.online import PARTS
from tk_conformance.tiny import tiny_checkpoint
from tk_parallel.testing import run_processes

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300, hidden=64)
    rows = [{"prompt": f"Say {i}", "solution": str(i)} for i in range(16)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config_of(inputs: Path, output: Path, **sections: Any) -> dict[str, Any]:
    return {
        "model": str(inputs / "model"),
        "data": str(inputs / "prompts.jsonl"),
        "template": "chatml",
        "method": "grpo",
        "sampling": {"max_tokens": 4, "n": 2},
        "tuner": {"name": "full"},
        "train": {"steps": 2, "batch_size": 16, "micro_batch_size": 8},
        "report": {"html": False, "plot": False},
        "plugins": {"files": [str(HERE / "misbehaving.py")]},
        "output": str(output),
        **sections,
    }


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


FAULTS = [
    ("raises", "rewards.raises: it raised RuntimeError: no luck (misbehaving.py:20) for ", ":8: mend the reward"),
    ("hangs", "rewards.hangs: it took longer than 2 seconds for ", "--rewards.hangs.time-limit SECONDS"),
    ("lost-in-a-thread", "rewards.lost-in-a-thread: it took longer than 2 seconds for ", ""),
    ("not-a-number", "rewards.not-a-number: it returned nan (float) for ", "None where the reward does not apply"),
]


@pytest.mark.parametrize(("name", "begins", "ends"), FAULTS)
def test_a_reward_that_misbehaves_ends_the_run(inputs: Path, tmp_path: Path, name: str, begins: str, ends: str) -> None:
    with pytest.raises(TkError) as told:
        tk.train(config_of(inputs, tmp_path / "run", rewards={name: {"time_limit": 2}}))
    assert begins in str(told.value)
    assert ends in str(told.value)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert begins in record["error"]


@pytest.mark.parametrize(
    ("name", "begins", "ends"), [FAULTS[0], *(pytest.param(*fault, marks=pytest.mark.slow) for fault in FAULTS[1:3])]
)
def test_it_ends_every_process(inputs: Path, tmp_path: Path, name: str, begins: str, ends: str) -> None:
    """The second process fails, and the first says so too: none waits for the other."""
    (tmp_path / "train.py").write_text("import sys\nsys.argv[0] = 'tk'\nfrom tk.cli import main\nmain()\n")
    config = config_of(inputs, tmp_path / "run", rewards={name: {"time_limit": 2}})
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    began = time.monotonic()
    done = run_processes(
        tmp_path / "train.py", "train", "-c", str(tmp_path / "run.yaml"), world=2, timeout=100, expect=1
    )
    assert time.monotonic() - began < 90
    assert [f"Error: {'' if rank else 'rank 1: '}{begins}" in one.stderr for rank, one in enumerate(done)] == [True] * 2
    assert all("Traceback" not in one.stderr for one in done)


def test_a_thread_that_is_left_behind_does_not_keep_the_command(inputs: Path) -> None:
    command = [sys.executable, "-m", "tk", "infer", "--model", str(inputs / "model"), "--template", "chatml"]
    command += ["--input", str(inputs / "prompts.jsonl"), "--plugin", str(HERE / "misbehaving.py")]
    command += ["--rewards.lost-in-a-thread.time-limit", "1", "--sampling.max-tokens", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Error: rewards.lost-in-a-thread: it took longer than 1 seconds" in done.stderr


def test_a_reward_that_cannot_be_made_is_told_before_anything_is_loaded(inputs: Path, tmp_path: Path) -> None:
    config = config_of(inputs, tmp_path / "run", rewards={"unmade": 1.0})
    for act in (tk.plan, tk.train):
        with pytest.raises(TkError, match=r"rewards.unmade: it cannot be made: OSError: there is no judge"):
            act(config)


def test_equal_rewards_and_cut_answers_are_counted_and_told(inputs: Path, tmp_path: Path) -> None:
    # So cold that the end token, one of 300, is not drawn by chance.
    sampling = {"max_tokens": 1, "n": 2, "temperature": 0.001}
    config = config_of(inputs, tmp_path / "run", rewards={"same": 1.0}, sampling=sampling)
    with pytest.warns(TkWarning) as told:
        tk.train(config)
    texts = [str(warning.message) for warning in told if warning.category is TkWarning]
    assert any("every answer of a step was cut off at sampling.max_tokens 1" in text for text in texts)
    assert any("all answers to each prompt of a step have the same reward" in text for text in texts)
    first = next(line for line in logged(tmp_path / "run") if line["kind"] == "train")
    assert first["idle"] == 1.0
    assert first["truncated"] == 1.0
    assert first["loss"] == 0.0


def test_what_a_reward_tells_is_kept(inputs: Path, tmp_path: Path) -> None:
    tk.train(config_of(inputs, tmp_path / "run", rewards={"same": 1.0}))
    train = [line for line in logged(tmp_path / "run") if line["kind"] == "train"]
    assert [line["rewards/same/liked"] for line in train] == [1.0, 1.0]
    notes = [json.loads(line) for line in (tmp_path / "run" / "notes.jsonl").read_text().splitlines()]
    assert len(notes) == 2 * 16 * 2
    assert notes[0].keys() == {"step", "reward", "origin", "column", "value"}
    assert {note["column"] for note in notes} == {"text"}


def test_a_reward_named_like_a_figure_does_not_take_its_place(inputs: Path, tmp_path: Path) -> None:
    config = config_of(inputs, tmp_path / "run", rewards={"same": 1.0, "reward": 1.0}, eval={"hold_out": 4})
    result = tk.train(config)
    assert result.evals["reward"] == -4.0
    assert result.evals["rewards/reward"] == -5.0
    assert result.evals["rewards/same"] == 1.0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rewards": {}}, "rewards: none is chosen"),
        ({"sampling": {"n": 1}}, "sampling.n: answers are held against one another: ask for 2 or more"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature: at 0 all answers to a prompt are the same"),
        ({"sampling": {"repetition_penalty": 1.1}}, "sampling.repetition_penalty: with 1.1 .* use 1.0"),
        ({"sampling": {"frequency_penalty": 0.5}}, "sampling.frequency_penalty: with 0.5 .* use 0.0"),
        ({"sampling": {"min_p": 0.2}}, "sampling.min_p: with 0.2 .* use 0.0"),
        ({"sampling": {"logit_bias": {"5": 1.0}}}, "sampling.logit_bias: with .* use {}"),
        ({"data": {"packing": True}}, "data.packing needs 'packing', which method .grpo of tk-plugin-grpo. does not"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_anything_is_loaded(
    inputs: Path, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    """There is no weight to be loaded: the checkpoint has none."""
    bare = tmp_path / "model"
    bare.mkdir()
    for file in (inputs / "model").iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    config = {**config_of(inputs, tmp_path / "run", rewards={"same": 1.0}), **sections, "model": str(bare)}
    if "packing" in sections.get("data", {}):
        config["data"] = {"sources": {"data": {"path": str(inputs / "prompts.jsonl")}}, "packing": True}
    for act in (tk.plan, tk.train):
        with pytest.raises(UsageError, match=message):
            act(config)
    assert not (tmp_path / "run").exists()


def test_a_prompt_leaves_room_for_its_answer(inputs: Path, tmp_path: Path) -> None:
    positions = json.loads((inputs / "model" / "config.json").read_text())["max_position_embeddings"]
    long = {"prompt": "Say " + "7" * 40, "solution": "7"}
    (tmp_path / "rows.jsonl").write_text((inputs / "prompts.jsonl").read_text() + json.dumps(long) + "\n")
    sampling = {"max_tokens": positions - 40, "n": 2}
    config = config_of(inputs, tmp_path / "run", rewards={"same": 1.0}, sampling=sampling)
    with pytest.raises(DataError, match=rf"rows.jsonl:17: the prompt has \d+ tokens, .* {positions} positions: lower"):
        tk.plan({**config, "data": str(tmp_path / "rows.jsonl")})
    sources = {"data": {"path": str(tmp_path / "rows.jsonl")}}
    assert tk.plan({**config, "data": {"sources": sources, "truncation": "drop"}}).examples == 16


def test_answers_of_a_part_of_the_distribution_are_trained_as_such(inputs: Path, tmp_path: Path) -> None:
    """Asked again before anything has moved, the policy gives each token what it was sampled with."""
    part = {"n": 4, "max_tokens": 8, "temperature": 0.9, "top_p": 0.7, "top_k": 40}
    method = {"name": "grpo", "iterations": 2}
    config = {**config_of(inputs, tmp_path / "run", rewards={"letters": 1.0}), "method": method, "sampling": part}
    tk.train({**config, "plugins": {"files": [*config["plugins"]["files"], str(PARTS)]}})
    log = logged(tmp_path / "run")
    assert log[0]["grad_norm"] > 0
    assert log[0]["loss"] == pytest.approx(0.0, abs=1e-6)  # ratios of 1, advantages that add up to 0
    assert log[0]["clipped"] == 0


def test_a_grpo_run_answers_with_any_sampling(inputs: Path, tmp_path: Path) -> None:
    tk.train(config_of(inputs, tmp_path / "run", rewards={"same": 1.0}, optim={"lr": 1e-2}))
    answers = tk.infer(
        run=tmp_path / "run", data=str(inputs / "prompts.jsonl"), sampling={"n": 1, "temperature": 0, "top_p": 0.5}
    )
    assert len(answers) == 16


FOREIGN = '''
from swift.plugin import ORM, orms

class Wants(ORM):
    """Likes the letter that the row asks for."""
    def __call__(self, completions, solution, **kwargs):
        return [float(len(set(c) & set(s))) for c, s in zip(completions, solution)]

orms["wants_it"] = Wants
'''
TRL = '''
def lower_case(prompts, completions, trainer_state, log_metric=None, **kwargs):
    """The share of lower-case letters."""
    assert prompts[0].startswith("Say ") and kwargs["solution"][0] in prompts[0]
    log_metric("step", trainer_state.global_step)
    return [sum("a" <= x <= "z" for x in c) / max(1, len(c)) for c in completions]
'''


def test_files_of_other_frameworks_are_rewards_of_a_run(inputs: Path, tmp_path: Path) -> None:
    """By the command, chosen by name in either spelling, together."""
    (tmp_path / "theirs.py").write_text(FOREIGN)
    (tmp_path / "trls.py").write_text(TRL)
    command = [sys.executable, "-m", "tk", "train", "--model", str(inputs / "model"), "--template", "chatml"]
    command += ["--data", str(inputs / "prompts.jsonl"), "--method", "grpo", "--tuner", "full", "--sampling.n", "2"]
    command += ["--plugin", str(tmp_path / "theirs.py"), "--plugin", str(tmp_path / "trls.py"), "--train.steps", "2"]
    command += ["--rewards.wants_it", "0.5", "--rewards.lower-case", "1.0", "--sampling.max-tokens", "4"]
    command += ["--output", str(tmp_path / "run"), "--report.html", "false", "--report.plot", "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    train = [line for line in logged(tmp_path / "run") if line["kind"] == "train"]
    assert [line["rewards/lower-case/step"] for line in train] == [0.0, 1.0]
    sample = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])
    for answer in sample["answers"]:
        assert answer["total"] == pytest.approx(
            0.5 * answer["rewards"]["wants_it"] + answer["rewards"]["lower-case"], abs=1e-12
        )


def test_one_reward_under_two_spellings_is_told(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "trls.py").write_text(TRL)
    config = config_of(inputs, tmp_path / "run", rewards={"lower-case": 1.0, "lower_case": 1.0})
    config["plugins"] = {"files": [str(tmp_path / "trls.py")]}
    with pytest.raises(UsageError, match="rewards.lower_case: it is the reward lower-case by another spelling"):
        tk.plan(config)


def test_a_stuck_reward_is_its_own_kind_of_error(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(StuckError):
        tk.train(config_of(inputs, tmp_path / "run", rewards={"hangs": {"time_limit": 0.5}}))
