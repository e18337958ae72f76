"""Trackers with a library, chosen by name in a run: what is sent, and what is said where it cannot be."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tk_tracking.testing import asked, interpreter

SHORT = ("--train.steps", "2", "--train.batch-size", "4", "--eval.hold-out", "4")
TRACKIO = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("birds")
print(json.dumps({"config": run.config, "logs": SQLiteStorage.get_logs("birds", run.name, run_id=run.id),
                  "alerts": [a["title"] for a in run.alerts()]}))
"""


def flags(inputs: Path, *more: str | Path) -> list[str | Path]:
    return ["train", "--model", inputs / "model", "--data", inputs / "rows.jsonl", *SHORT, *more]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "swanlab", "trackio"])
def test_a_library_that_is_not_here_is_told_before_anything_is_done(name, command, inputs, tmp_path):
    if find_spec(name):
        pytest.skip(f"{name} is installed here")
    done = command(*flags(inputs, "--trackers", name, "--output", tmp_path / "run"))
    assert done.code == 1
    assert f"trackers.{name}: tracker '{name}' of tk-plugin-{name} cannot be used: it needs the module" in done.err
    assert f"pip install 'tk-plugin-{name}[{name}]', or say where it is (python)" in done.err
    assert not (tmp_path / "run").exists()


def test_one_that_cannot_begin_leaves_no_run(command, inputs, tmp_path):
    python = interpreter("swanlab")
    done = command(*flags(inputs, "--trackers.swanlab.python", python, "--output", tmp_path / "run"))
    assert done.code == 1
    assert "trackers.swanlab: RuntimeError" in done.err
    assert "--trackers.swanlab.mode offline" in done.err
    assert not (tmp_path / "run").exists()


def test_a_run_is_kept_by_several_at_once(command, inputs, tmp_path, monkeypatch):
    python = interpreter("trackio, wandb")
    run = tmp_path / "run"
    both = [f"--trackers.{name}.python={python}" for name in ("trackio", "wandb")]
    own = ["--trackers.trackio.project", "birds", "--trackers.trackio.dir", tmp_path / "kept"]
    judge = ["--engines.judge.name", "vllm", "--engines.judge.python", "x", "--engines.judge.env.HF_TOKEN", "hf_secret"]
    done = command(*flags(inputs, *both, *own, *judge, "--trackers.wandb.mode", "offline", "--output", run))
    assert done.code == 0, done.err
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    found = asked(python, TRACKIO)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    assert [(row["step"], row["train/loss"]) for row in found["logs"] if "train/loss" in row] == losses
    assert found["config"]["train.steps"] == 2
    assert found["config"]["engines.judge.env.HF_TOKEN"] == "***"
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    assert kept == [run / "config.yaml"]
    assert found["alerts"] == ["finished"]
    assert list((run / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
