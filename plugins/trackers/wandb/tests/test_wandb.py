"""Runs of the real wandb without a network, read back from the file that `wandb sync` would send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tk.errors import TkError
from tk_tracking.testing import CONFIG, PLAN, asked, interpreter, result, resumed, run
from tk_wandb.options import WandbOptions
from tk_wandb.tracker import Wandb

READ = """
import json, struct, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2 as pb

def records(path):  # the log format of LevelDB: blocks of 32 KiB, with records that may go over several
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record, whole = pb.Record(), whole
            record.ParseFromString(whole)
            whole = b""
            yield record

def items(found):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found}

runs = []
for path in sorted(Path(sys.argv[1]).glob("offline-run-*/*.wandb")):
    told = {"history": [], "summary": {}}
    for record in records(path):
        which = record.WhichOneof("record_type")
        if which == "run":
            told |= {"id": record.run.run_id, "name": record.run.display_name, "project": record.run.project}
            told |= {"tags": list(record.run.tags), "config": items(record.run.config.update), "host": record.run.host}
        elif which == "history":
            told["history"].append(items(record.history.item))
        elif which == "summary":
            told["summary"] |= items(record.summary.update)
        elif which == "exit":
            told["exit"] = record.exit.exit_code
    runs.append(told)
print(json.dumps(runs))
"""


@pytest.fixture(scope="session")
def python() -> str:
    return interpreter("wandb")


def build(python: str, folder: Path, **options: Any) -> Wandb:
    return Wandb(WandbOptions(project="birds", python=python, mode="offline", **options), folder / "wandb")


def written(python: str, folder: Path) -> list[dict[str, Any]]:
    return asked(python, READ, folder / "wandb" / "wandb")


def points(found: dict[str, Any], name: str) -> list[tuple[int, float]]:
    return [(row["step"], pytest.approx(row[name])) for row in found["history"] if name in row]


def test_a_run_is_read_back(python, tmp_path):
    run(build(python, tmp_path, tags=["a", "b"], name="first")).finish(result(tmp_path))
    (found,) = written(python, tmp_path)
    assert (found["project"], found["name"], sorted(found["tags"])) == ("birds", "first", ["a", "b"])
    assert found["config"]["optim.lr"] == 2e-4
    assert found["config"]["plan.tokens"] == 1234
    assert found["config"]["output.path"] == str(tmp_path)
    assert points(found, "train/loss") == [(1, 2.75), (2, 2.5), (3, 2.25), (4, 2.0)]
    assert points(found, "eval/loss") == [(0, 3.0)]
    assert found["summary"]["result/loss"] == 1.5
    assert found["summary"]["state"] == "finished"
    assert found["exit"] == 0


def test_a_resumed_run_is_the_same_run(python, tmp_path):
    resumed(lambda: build(python, tmp_path), tmp_path)
    first, second = written(python, tmp_path)
    assert first["id"] == second["id"]
    assert [found["exit"] for found in (first, second)] == [255, 0]
    assert points(second, "train/loss") == [(3, 2.25), (4, 2.0)]


def test_a_failed_run_is_failed(python, tmp_path):
    run(build(python, tmp_path)).finish(None)
    (found,) = written(python, tmp_path)
    assert found["exit"] == 1
    assert found["summary"]["state"] == "failed"


def test_nothing_of_the_machine_is_written_unless_asked_for(python, tmp_path):
    run(build(python, tmp_path)).finish(None)
    (files,) = (tmp_path / "wandb" / "wandb").glob("offline-run-*/files")
    assert {path.name for path in files.iterdir()} <= {"config.yaml", "wandb-summary.json"}


def test_online_without_a_key_is_an_error_with_its_mend(python, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    options = WandbOptions(python=python)
    with pytest.raises(TkError, match=r"trackers\.wandb: .*--trackers\.wandb\.mode offline"):
        Wandb(options, tmp_path / "run" / "wandb").start(PLAN, CONFIG, 0)
