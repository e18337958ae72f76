"""Behaviour of schedules, metrics and trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tk.contracts import Metric, Schedule, Tracker, TrainPlan, TrainResult
from tk.testing.need import is_finite, need


def check_schedule(schedule: Schedule, totals: Sequence[int] = (1, 2, 10, 1000)) -> None:
    """Finite factors, none below 0 and none above 1 by more than rounding, and the same whenever they are asked for."""
    for total in totals:
        factors = [schedule(step, total) for step in range(total)]
        name = type(schedule).__name__
        for step, factor in enumerate(factors):
            need(is_finite(factor) and factor >= 0, f"{name}({step}, {total}) is {factor!r}: a finite number from 0 up")
        again = [schedule(step, total) for step in reversed(range(total))]
        need(again[::-1] == factors, f"{name} is no pure function of the step: asked again it differs (total {total})")
        need(any(factor > 0 for factor in factors), f"{name}: every factor of {total} steps is 0: nothing is learnt")


def check_metric(metric: Metric, records: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """Finite figures by name, the same in every order of the records, which it leaves as they are. Returns them."""
    before = [dict(record) for record in records]
    figures = metric(records)
    name = type(metric).__name__
    need(isinstance(figures, Mapping) and figures, f"{name} returned {figures!r}: figures by name")
    for key, value in figures.items():
        need(isinstance(key, str) and is_finite(value), f"{name} returned {key!r}: {value!r}: a finite number by name")
    backwards = metric(list(reversed(records)))
    for key, value in figures.items():
        need(
            abs(backwards[key] - value) <= 1e-9 * max(1.0, abs(value)), f"{name}: {key!r} depends on the records' order"
        )
    need([dict(record) for record in records] == before, f"{name} changed the records")
    return figures


def check_tracker(build: Callable[[Path], Tracker], folder: Path) -> list[Path]:
    """A whole run, a failed one, and one that fails before it starts. Returns the files that were written in `folder`."""
    for ended in (True, False):
        tracker = build(folder)
        tracker.start(_PLAN, {"model": {"name": "m"}, "train": {"seed": 0, "steps": None}, "data": {"sources": {}}}, 0)
        for step in range(3):
            tracker.log("train", step + 1, {"loss": 2.0 - step / 2, "lr": 1e-3})
        tracker.log("train", 4, {"loss": float("nan")})
        tracker.log("eval", 4, {"loss": 1.0})
        tracker.finish(_result(folder) if ended else None)
    build(folder).finish(None)
    return sorted(path for path in folder.rglob("*") if path.is_file())


_PLAN = TrainPlan(
    rows=8,
    examples=8,
    tokens=64,
    supervised=32.0,
    skipped={},
    steps=4,
    batch_size=2,
    accumulation=1,
    world=1,
    parameters=10,
    trainable=1,
)


def _result(folder: Path) -> TrainResult:
    return TrainResult(
        output=folder,
        steps=4,
        metrics={"loss": 1.0},
        evals={"loss": 1.0},
        first={"loss": 2.0},
        checkpoints=(),
        seconds=1.0,
        tokens=64,
        peak_memory=0,
    )
