"""The callback `early-stopping`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.callbacks import Base
from tk.contracts import Control
from tk_run_control.figures import better, figure
from tk_run_control.options import EarlyStoppingOptions


class EarlyStopping(Base):
    """Stops the run after `patience` evaluations in a row that did not improve on the best one."""

    def __init__(self, options: EarlyStoppingOptions) -> None:
        self.options = options
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0

    def check(self, figures: Mapping[str, float]) -> None:
        figure(figures, self.options.metric, "early-stopping")

    def on_eval(self, control: Control, metrics: Mapping[str, float]) -> None:
        options = self.options
        value = figure(metrics, options.metric, "early-stopping")
        if better(value, self.best, options.mode, options.min_delta):
            self.best, self.best_step, self.waited = value, control.step, 0
            return
        self.waited += 1
        if self.waited >= options.patience:
            since = "it was never a number" if self.best is None else f"best {self.best:.6g} at step {self.best_step}"
            control.stop(f"early-stopping: {options.metric} did not improve in {self.waited} evaluations ({since})")

    def state(self) -> Mapping[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
