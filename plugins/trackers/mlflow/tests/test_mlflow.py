"""Runs of the real MLflow in a database of their own, read back by its client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tk.errors import TkError
from tk_mlflow.options import MlflowOptions
from tk_mlflow.tracker import Mlflow
from tk_tracking.testing import CONFIG, PLAN, asked, interpreter, result, resumed, run

READ = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
found = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        figures = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
        found.append({"id": run.info.run_id, "experiment": experiment.name, "name": run.info.run_name,
                      "status": run.info.status, "params": run.data.params, "tags": run.data.tags, "figures": figures})
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def python() -> str:
    return interpreter("mlflow, sqlalchemy")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def build(python: str, folder: Path, uri: str, **options: Any) -> Mlflow:
    options = {"project": "birds", "python": python, "uri": uri, "start_seconds": 300, **options}
    return Mlflow(MlflowOptions(**options), folder / "run" / "mlflow")


def written(python: str, uri: str) -> list[dict[str, Any]]:
    return asked(python, READ, uri, **os.environ, MLFLOW_DISABLE_TELEMETRY="true")


def test_a_run_is_read_back_and_a_resumed_one_is_the_same(python, tmp_path, uri):
    resumed(lambda: build(python, tmp_path, uri, tags=["quick"]), tmp_path)
    (found,) = written(python, uri)
    assert (found["experiment"], found["name"], found["status"]) == ("birds", "run", "FINISHED")
    assert found["params"]["optim.lr"] == "0.0002"
    assert found["params"]["plan.tokens"] == "1234"
    assert found["tags"]["output"] == str(tmp_path / "run")
    assert found["tags"]["quick"] == "true"
    steps = sorted(map(tuple, found["figures"]["train/loss"]))
    assert steps == [(1, 2.75), (2, 2.5), (3, 2.25), (3, 2.25), (4, 2.0)]
    assert found["figures"]["eval/loss"] == [[0, 3.0], [4, 1.5]]
    assert [4, 1.5] in found["figures"]["result/loss"]


@pytest.mark.slow
def test_runs_share_an_experiment_and_a_failed_one_is_failed(python, tmp_path, uri):
    run(build(python, tmp_path, uri, name="one")).finish(result(tmp_path))
    tracker = run(build(python, tmp_path, uri, name="two"))
    tracker.log("train", 5, {"loss": float("nan")})
    tracker.finish(None)
    found = {one["name"]: one for one in written(python, uri)}
    assert {name: one["status"] for name, one in found.items()} == {"one": "FINISHED", "two": "FAILED"}
    assert {one["experiment"] for one in found.values()} == {"birds"}


@pytest.mark.slow
def test_a_long_config_is_cut_into_what_it_takes(python, tmp_path, uri):
    tracker = build(python, tmp_path, uri)
    config = CONFIG | {"data": {f"option{i}": "x" * 7000 for i in range(150)}}
    tracker.start(PLAN, config, 0)
    tracker.finish(result(tmp_path))
    (found,) = written(python, uri)
    assert len([name for name in found["params"] if name.startswith("data.option")]) == 150
    assert len(found["params"]["data.option7"]) == 6000


def test_a_store_that_is_not_there_is_an_error_with_its_mend(python, tmp_path):
    tracker = build(python, tmp_path, "nonsense://somewhere")
    with pytest.raises(TkError, match=r"trackers\.mlflow: .*Is the store right \(--trackers\.mlflow\.uri\)\?"):
        tracker.start(PLAN, CONFIG, 0)
