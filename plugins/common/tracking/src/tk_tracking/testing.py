"""For tests of trackers: the interpreter that has their libraries, and a run to be tracked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tk.contracts import TrainPlan, TrainResult
from tk_tracking.tracker import Tracking

CONFIG: Mapping[str, Any] = {
    "model": {"name": "m", "revision": None},
    "optim": {"lr": 2e-4, "betas": [0.9, 0.95]},
    "train": {"seed": 7},
}
PLAN = TrainPlan(
    rows=10,
    examples=10,
    tokens=1234,
    supervised=600.0,
    skipped={},
    steps=4,
    batch_size=4,
    accumulation=1,
    world=1,
    parameters=1000,
    trainable=10,
)


def interpreter(module: str) -> str:
    """The interpreter beside this one that has a library; skips the test where there is none."""
    python = Path(sys.prefix) / "trackers" / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{python} is not there: make test puts the libraries of trackers there")
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{python} has no {module}: {done.stderr.strip().splitlines()[-1]}")
    return str(python)


def asked(python: str, code: str, *arguments: str | Path, **environment: str) -> Any:
    """What code prints last as JSON in another interpreter: how a library reads what was written by it."""
    command = [python, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment or None, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def result(folder: Path, stopped: str = "") -> TrainResult:
    return TrainResult(
        output=folder,
        steps=4,
        metrics={},
        evals={"loss": 1.5},
        first={"loss": 3.0},
        checkpoints=(),
        seconds=1.0,
        tokens=100,
        peak_memory=0,
        stopped=stopped,
    )


def run(tracker: Tracking, begin: int = 0, end: int = 4) -> Tracking:
    """Steps `begin` + 1 … `end` of a run whose loss at step s is 3 - s/4, with an evaluation before the first."""
    tracker.start(PLAN, CONFIG, begin)
    if not begin:
        tracker.log("eval", 0, {"loss": 3.0})
    for step in range(begin + 1, end + 1):
        tracker.log("train", step, {"loss": 3.0 - step / 4, "lr": 1e-4 * step})
    return tracker


def resumed(build: Callable[[], Tracking], folder: Path) -> None:
    """A run that SIGTERM has stopped after step 3, and that goes on after step 2 to its end."""
    run(build(), end=3).finish(result(folder, "SIGTERM"))
    again = run(build(), begin=2)
    again.log("eval", 4, {"loss": 1.5})
    again.finish(result(folder))
