"""Runs of the real Trackio in a folder of their own, read back by its own API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tk.errors import TkError
from tk_tracking.testing import CONFIG, PLAN, asked, interpreter, result, resumed, run
from tk_trackio.options import TrackioOptions
from tk_trackio.tracker import Trackio

READ = """
import json
import trackio
from trackio.sqlite_storage import SQLiteStorage
found = []
for run in trackio.Api().runs("birds"):
    logs = SQLiteStorage.get_logs("birds", run.name, run_id=run.id)
    found.append({"id": run.id, "name": run.name, "config": run.config, "logs": logs,
                  "alerts": [(a["title"], a["level"], a["step"]) for a in run.alerts()]})
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def python() -> str:
    return interpreter("trackio")


def build(python: str, folder: Path, **options: Any) -> Trackio:
    options = {"project": "birds", "python": python, "dir": str(folder / "kept"), **options}
    return Trackio(TrackioOptions(**options), folder / "run" / "trackio")


def written(python: str, folder: Path) -> list[dict[str, Any]]:
    return asked(python, READ, **os.environ, TRACKIO_DIR=str(folder / "kept"))


def points(found: dict[str, Any], name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in found["logs"] if name in row]


def test_a_run_is_read_back_and_a_resumed_one_is_the_same(python, tmp_path):
    resumed(lambda: build(python, tmp_path, tags=["quick"]), tmp_path)
    (found,) = written(python, tmp_path)
    assert found["name"] == "run"
    assert found["config"]["optim.lr"] == 2e-4
    assert found["config"]["plan.tokens"] == 1234
    assert found["config"]["output.path"] == str(tmp_path / "run")
    assert found["config"]["tags"] == ["quick"]
    assert points(found, "train/loss") == [(1, 2.75), (2, 2.5), (3, 2.25), (3, 2.25), (4, 2.0)]
    assert points(found, "eval/loss") == [(0, 3.0), (4, 1.5)]
    assert points(found, "result/loss")[-1] == (4, 1.5)
    assert sorted(found["alerts"]) == [["finished", "info", 4], ["stopped", "warn", 3]]


def test_a_failed_run_is_told_so(python, tmp_path):
    tracker = run(build(python, tmp_path))
    tracker.log("train", 5, {"loss": float("nan")})
    tracker.finish(None)
    (found,) = written(python, tmp_path)
    assert found["alerts"] == [["failed", "error", 5]]


def test_two_runs_of_one_name_are_not_mixed_up(python, tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    run(build(python, one, dir=str(tmp_path / "kept"))).finish(result(one, "SIGTERM"))
    run(build(python, other, dir=str(tmp_path / "kept"))).finish(result(other))
    with pytest.raises(TkError, match=r"another run of birds is named 'run' too: give each a name"):
        build(python, one, dir=str(tmp_path / "kept")).start(PLAN, CONFIG, 2)


def test_what_the_shell_names_is_not_sent_to(python, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "nobody/nothing")
    run(build(python, tmp_path)).finish(result(tmp_path))
    monkeypatch.delenv("TRACKIO_SERVER_URL")
    monkeypatch.delenv("TRACKIO_SPACE_ID")
    (found,) = written(python, tmp_path)
    assert len(points(found, "train/loss")) == 4
