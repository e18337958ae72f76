"""Runs that are handed over: what is submitted, what is left where it is not; and processes that were started otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import tk
from tk.errors import UsageError
from tk_conformance.tiny import tiny_run

SBATCH = """#!/bin/bash
[ -e "$(dirname "$0")/closed" ] && echo "the queue is closed" >&2 && exit 1
echo 17
"""

Train = Callable[..., object]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Train) -> Train:
    """`tk train` of a tiny run by Slurm, whose sbatch takes everything but where a file `closed` is beside it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(SBATCH)
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    config = tiny_run(tmp_path / "inputs", [{"prompt": "1?", "completion": "one"}] * 8, launcher="slurm")
    (tmp_path / "config.json").write_text(json.dumps({**config, "output": str(tmp_path / "run")}))
    return lambda *flags: command("train", "-c", tmp_path / "config.json", *flags)


def test_a_dry_run_shows_the_script_and_writes_nothing(train, tmp_path):
    done = train("--dry-run", "--launcher.processes-per-node", "4")
    assert done.code == 0, done.err
    assert "#SBATCH --ntasks-per-node=4" in done.out
    assert f"-m tk train -c {tmp_path}/run/launch/1/config.yaml" in done.out
    assert not (tmp_path / "run").exists()


def test_a_job_that_waits_keeps_its_own_config(train, tmp_path):
    first, second = train("--train.steps", "5"), train("--train.steps", "6", "--json")
    assert first.out.startswith("job 17 (squeue -j 17)")
    assert json.loads(second.out)["launched"] == first.out.strip()
    for number, steps in ((1, 5), (2, 6)):
        own = tmp_path / "run/launch" / str(number)
        assert tk.load_config(own / "config.yaml").train.steps == steps
        assert f"-c {own}/config.yaml" in (own / "job.sh").read_text()


def test_a_job_that_is_refused_leaves_those_that_wait(train, tmp_path):
    (tmp_path / "bin/closed").touch()
    refused = train()
    assert (refused.code, "sbatch refused" in refused.err, "the queue is closed" in refused.err) == (1, True, True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "bin/closed").unlink()
    train()
    (tmp_path / "bin/closed").touch()
    assert train().code == 1
    assert sorted(path.name for path in (tmp_path / "run/launch").rglob("*")) == ["1", "config.yaml", "job.sh"]


def test_a_folder_that_cannot_be_written_is_told(train, tmp_path):
    (tmp_path / "run").write_text("")
    done = train()
    assert (done.code, f"Error: {tmp_path}/run/launch/1: cannot be written" in done.err) == (1, True)


def test_python_does_not_wait_for_a_job(train, tmp_path):
    with pytest.raises(UsageError, match="hands the run over.*use `tk train`"):
        tk.train(tmp_path / "config.json")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "3"}, "RANK is 3, but WORLD_SIZE is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "to start 8 processes, and this is process 0 of 2"),
    ],
)
def test_processes_that_are_not_those_of_the_config_are_refused(train, monkeypatch, tmp_path, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = train("--launcher", "local", "--launcher.processes", "8")
    assert (done.code, told in done.err) == (2, True), done.err
    assert not (tmp_path / "run").exists()
