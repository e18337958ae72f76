"""What `tk plugins new` writes is installed by pip and works when it is selected: one run with a new part of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tk_conformance.tiny import tiny_checkpoint

SELECTED = (
    "loss",
    "tuner",
    "template",
    "optimizer",
    "scheduler",
    "callback",
    "tracker",
    "method",
    "strategy",
    "reward",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("new")


@pytest.fixture(scope="module")
def tk(place):
    """`tk` in an environment that has the new packages too, as pip installed them."""
    site = place / "site"
    environ = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tk", *args], capture_output=True, text=True, env=environ, cwd=place, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for kind in SELECTED:
        run("plugins", "new", kind, f"my-{kind}")
    folders = [str(place / f"tk-plugin-my-{kind}") for kind in SELECTED]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), *folders], check=True, capture_output=True)
    return run


@pytest.fixture(scope="module")
def checkpoint(place) -> Path:
    return tiny_checkpoint(place / "base", vocab=300)


@pytest.fixture(scope="module")
def rows(place) -> Path:
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "ab" * n, "completion": "cd" * n}) + "\n" for n in range(1, 9)))
    return path


def test_each_is_found(tk):
    found = {word for row in json.loads(tk("plugins", "list", "--json")) for word in row["components"]}
    assert {f"{kind}:my-{kind}" for kind in SELECTED} <= found


@pytest.mark.parametrize(
    "choice",
    [
        ("--losses", "my-loss"),
        pytest.param(("--tuner", "my-tuner"), id="my-tuner", marks=pytest.mark.slow),
        pytest.param(("--template", "my-template"), id="my-template", marks=pytest.mark.slow),
        pytest.param(
            ("--optim", "my-optimizer", "--scheduler", "my-scheduler"), id="my-optimizer", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--callbacks", "my-callback", "--trackers", "my-tracker"), id="my-callback", marks=pytest.mark.slow
        ),
        ("--method", "my-method"),
        pytest.param(("--strategy", "my-strategy"), id="my-strategy", marks=pytest.mark.slow),
    ],
    ids=lambda choice: choice[1],
)
def test_a_run_uses_it(choice, tk, place, checkpoint, rows):
    output = place / f"run-{choice[1]}"
    given = {"--template": "chatml", "--tuner": "full"}
    given |= dict(zip(choice[::2], choice[1::2], strict=True))
    flags = [word for pair in given.items() for word in pair]
    tk("train", "--model", str(checkpoint), "--data", str(rows), "--train.steps", "2", "--output", str(output), *flags)
    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "finished"
    assert set(choice[1::2]) <= {part["name"] for part in record["parts"]}


def test_a_reward_scores_answers(tk, checkpoint, rows):
    flags = ["--template", "chatml", "--sampling.max-tokens", "4", "--rewards", "my-reward", "--json"]
    answers = json.loads(tk("infer", "--model", str(checkpoint), "--input", str(rows), *flags))
    assert all("my-reward" in answer["rewards"] for answer in answers)
