"""Reads what a run wrote about itself. Nothing here is required: a report of a broken run is wanted most."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
Series = list[tuple[float, float]]
"""Points (step, value), finite, in order of steps."""


@dataclass(frozen=True)
class Run:
    """A run as it is on disk: run.json, the lines of log.jsonl by kind, and those of samples.jsonl."""

    folder: Path
    info: Record
    train: Sequence[Record] = field(default_factory=list)
    evals: Sequence[Record] = field(default_factory=list)
    generated: Sequence[Record] = field(default_factory=list)

    def part(self, name: str) -> Record:
        """A mapping of run.json, or an empty one."""
        value = self.info.get(name)
        return value if isinstance(value, Mapping) else {}

    def items(self, name: str) -> list[Record]:
        """The mappings in a list of run.json."""
        value = self.info.get(name)
        return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []

    def series(self, name: str) -> Series:
        """A figure of the training lines."""
        return series(self.train, name)

    def eval_sets(self) -> dict[str, list[Record]]:
        """Evaluation lines by the name of their set."""
        sets: dict[str, list[Record]] = {}
        for record in self.evals:
            sets.setdefault(str(record.get("set", "eval")), []).append(record)
        return sets


def read_run(folder: Path) -> Run:
    """The run in a folder. A line of the log that was cut off is passed over."""
    info: Any = {}
    file = folder / "run.json"
    if file.is_file():
        info = json.loads(file.read_text("utf-8"))
    lines = list(_lines(folder / "log.jsonl"))
    # A resumed run logs the steps after its checkpoint again; the later line is the one that counts.
    train = {record.get("step"): record for record in lines if record.get("kind") == "train"}
    evals = {(record.get("set"), record.get("step")): record for record in lines if record.get("kind") == "eval"}
    generated = list(_lines(folder / "samples.jsonl"))
    return Run(folder, info if isinstance(info, Mapping) else {}, list(train.values()), list(evals.values()), generated)


def series(records: Sequence[Record], name: str) -> Series:
    """The finite values of a figure, by step."""
    points = ((number(record.get("step")), number(record.get(name))) for record in records)
    return sorted((step, value) for step, value in points if step is not None and value is not None)


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def smooth(points: Series, weight: float = 0.0) -> Series:
    """Exponential moving average without bias at the start. `weight` 0: chosen by the number of points."""
    decay = weight or 1 - 1 / max(2.0, len(points) / 25)
    total, seen, out = 0.0, 0.0, []
    for step, value in points:
        total = decay * total + (1 - decay) * value
        seen = decay * seen + (1 - decay)
        out.append((step, total / seen))
    return out


def _lines(file: Path) -> Iterator[Record]:
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, Mapping):
                yield record
