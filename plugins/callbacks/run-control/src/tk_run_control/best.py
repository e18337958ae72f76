"""The callback `best-checkpoints`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tk.callbacks import Base
from tk.contracts import Checkpoint, Control
from tk_run_control.figures import better, figure
from tk_run_control.options import BestCheckpointsOptions


class BestCheckpoints(Base):
    """Asks for a checkpoint at each evaluation that belongs to the best `keep`, and has those checkpoints kept.

    Of equal figures the earlier checkpoint is the better one. A checkpoint without an evaluation at its step has no
    figure of its own and is not counted.
    """

    def __init__(self, options: BestCheckpointsOptions) -> None:
        self.options = options
        self.kept: list[tuple[float, str]] = []
        self.figures: dict[int, float] = {}

    def check(self, figures: Mapping[str, float]) -> None:
        figure(figures, self.options.metric, "best-checkpoints")

    def on_eval(self, control: Control, metrics: Mapping[str, float]) -> None:
        value = figure(metrics, self.options.metric, "best-checkpoints")
        # Only this step's figure can still meet its checkpoint.
        self.figures = {control.step: value} if math.isfinite(value) else {}
        full = len(self.kept) >= self.options.keep
        if better(value, self.kept[-1][0] if full else None, self.options.mode):
            control.save()

    def on_checkpoint(self, control: Control, checkpoint: Checkpoint) -> None:
        value = self.figures.get(checkpoint.step)
        path = str(checkpoint.path)
        known = [(v, p) for v, p in self.kept if p != path]
        if value is not None:
            sign = 1 if self.options.mode == "min" else -1
            known = sorted([*known, (value, path)], key=lambda pair: sign * pair[0])
        self.kept = known[: self.options.keep]
        control.keep([Path(kept) for _, kept in self.kept])

    def state(self) -> Mapping[str, Any]:
        return {
            "kept": [[value, path] for value, path in self.kept],
            "figures": {str(step): value for step, value in self.figures.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.kept = [(value, path) for value, path in state["kept"]]
        self.figures = {int(step): value for step, value in state["figures"].items()}
