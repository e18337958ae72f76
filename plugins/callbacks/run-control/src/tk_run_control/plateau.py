"""The callback `reduce-lr-on-plateau`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.callbacks import Base
from tk.contracts import Control
from tk_run_control.figures import better, figure
from tk_run_control.options import PlateauOptions


class ReduceLrOnPlateau(Base):
    """Multiplies the learning rate by `factor` after more than `patience` evaluations without improvement.

    Decides as torch.optim.lr_scheduler.ReduceLROnPlateau does, but multiplies the run's schedule rather than replacing
    it; `min_scale` bounds the product of all reductions where torch has `min_lr`.
    """

    def __init__(self, options: PlateauOptions) -> None:
        self.options = options
        self.best: float | None = None
        self.bad = 0
        self.cooldown = 0
        self.scale = 1.0

    def check(self, figures: Mapping[str, float]) -> None:
        figure(figures, self.options.metric, "reduce-lr-on-plateau")

    def on_eval(self, control: Control, metrics: Mapping[str, float]) -> None:
        options = self.options
        value = figure(metrics, options.metric, "reduce-lr-on-plateau")
        if better(value, self.best, options.mode, self._delta()):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooldown > 0:
            self.cooldown -= 1
            self.bad = 0
        if self.bad > options.patience:
            self._reduce(control)
            self.cooldown, self.bad = options.cooldown, 0

    def _delta(self) -> float:
        """The change that an improvement must exceed; torch's `best · (1 ∓ threshold)` written as a difference."""
        if self.options.threshold_mode == "absolute" or self.best is None:
            return self.options.threshold
        return self.options.threshold * self.best

    def _reduce(self, control: Control) -> None:
        wanted = max(self.scale * self.options.factor, self.options.min_scale)
        if wanted < self.scale:
            control.scale_lr(wanted / self.scale)
            self.scale = wanted

    def state(self) -> Mapping[str, Any]:
        return {"best": self.best, "bad": self.bad, "cooldown": self.cooldown, "scale": self.scale}

    def load(self, state: Mapping[str, Any]) -> None:
        """Counters only: the trainer restores the factor on the learning rate itself."""
        self.best, self.bad = state["best"], state["bad"]
        self.cooldown, self.scale = state["cooldown"], state["scale"]
