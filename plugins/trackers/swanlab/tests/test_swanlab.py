"""Runs of the real SwanLab without a network, read back by its own reader of what `swanlab sync` would send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tk.errors import TkError
from tk_swanlab.options import SwanlabOptions
from tk_swanlab.tracker import Swanlab
from tk_tracking.testing import CONFIG, PLAN, asked, interpreter, result, resumed, run

READ = """
import json, sys
from pathlib import Path
import yaml
from google.protobuf.json_format import MessageToDict
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.sdk.internal.core_python.store import DataStoreReader

found = []
for path in sorted(Path(sys.argv[1]).glob("run-*/*.swanlab")):
    reader, records = DataStoreReader(), []
    reader.open(path)
    while (data := reader.scan()) is not None:
        record = Record()
        record.ParseFromString(data)
        records.append(MessageToDict(record))
    config = path.parent / "files" / "config.yaml"
    files = sorted(file.name for file in (path.parent / "files").iterdir())
    found.append({"records": records, "config": yaml.safe_load(config.read_text()), "files": files})
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def python() -> str:
    return interpreter("swanlab")


def build(python: str, folder: Path, **options: Any) -> Swanlab:
    return Swanlab(SwanlabOptions(project="birds", python=python, mode="offline", **options), folder / "swanlab")


def written(python: str, folder: Path) -> list[dict[str, Any]]:
    return asked(python, READ, folder / "swanlab")


def one(found: dict[str, Any], kind: str) -> dict[str, Any]:
    (record,) = [record[kind] for record in found["records"] if kind in record]
    return record


def value(found: dict[str, Any], name: str) -> Any:
    """Of the config: SwanLab keeps a value with its place."""
    kept = found["config"][name]
    return kept["value"] if isinstance(kept, dict) else kept


def points(found: dict[str, Any], name: str) -> list[tuple[int, float]]:
    scalars = [record["scalar"] for record in found["records"] if "scalar" in record]
    return [(int(s.get("step", 0)), s["value"].get("number")) for s in scalars if s["key"] == name]


def test_a_run_is_read_back(python, tmp_path):
    run(build(python, tmp_path, tags=["a"], name="first")).finish(result(tmp_path))
    (found,) = written(python, tmp_path)
    start = one(found, "start")
    assert (start["project"], start["name"], start["tags"]) == ("birds", "first", ["a"])
    assert value(found, "optim.lr") == 2e-4
    assert value(found, "plan.tokens") == 1234
    assert value(found, "output.path") == str(tmp_path)
    assert points(found, "train/loss") == [(1, 2.75), (2, 2.5), (3, 2.25), (4, 2.0)]
    assert points(found, "eval/loss") == [(0, 3.0)]
    assert points(found, "result/loss") == [(4, 1.5)]
    assert one(found, "finish")["state"] == "RUN_STATE_FINISHED"


def test_a_resumed_run_is_the_same_run(python, tmp_path):
    resumed(lambda: build(python, tmp_path), tmp_path)
    first, second = written(python, tmp_path)
    assert one(first, "start")["id"] == one(second, "start")["id"]
    assert [one(found, "finish")["state"] for found in (first, second)] == ["RUN_STATE_ABORTED", "RUN_STATE_FINISHED"]
    assert points(second, "train/loss") == [(3, 2.25), (4, 2.0)]


def test_a_failed_run_is_crashed(python, tmp_path):
    tracker = run(build(python, tmp_path))
    tracker.log("train", 5, {"loss": float("nan")})
    tracker.finish(None)
    (found,) = written(python, tmp_path)
    assert one(found, "finish")["state"] == "RUN_STATE_CRASHED"


def test_nothing_of_the_machine_is_written_unless_asked_for(python, tmp_path):
    run(build(python, tmp_path)).finish(None)
    (found,) = written(python, tmp_path)
    assert "requirements.txt" not in found["files"]
    (metadata,) = (tmp_path / "swanlab").glob("run-*/files/swanlab-metadata.json")
    assert "hostname" not in metadata.read_text()


def test_online_without_a_key_is_an_error_with_its_mend(python, tmp_path, monkeypatch):
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TkError, match=r"trackers\.swanlab: .*no TTY.*--trackers\.swanlab\.mode offline"):
        Swanlab(SwanlabOptions(python=python), tmp_path / "run" / "swanlab").start(PLAN, CONFIG, 0)
