"""The callback `loss-spike`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from acme_tk_loss_spike.options import LossSpikeOptions
from tk.callbacks import Base
from tk.contracts import Control


class LossSpike(Base):
    """Stops the run after more than `patience` spikes in a row. Spikes do not enter the median.

    It judges by the loss alone, which is the same on every process of a run: a clock would let them part.
    """

    def __init__(self, options: LossSpikeOptions) -> None:
        self.options = options
        self.recent: list[float] = []
        self.spikes = 0

    def on_step(self, control: Control, metrics: Mapping[str, float]) -> None:
        loss, full = metrics["loss"], len(self.recent) == self.options.window
        spike = not math.isfinite(loss) or (full and loss > self.options.factor * median(self.recent))
        if not spike:
            self.recent = [*self.recent, loss][-self.options.window :]
            self.spikes = 0
            return
        self.spikes += 1
        if self.spikes > self.options.patience:
            usual = f"the median before it {median(self.recent):.4g}" if self.recent else "there was none before it"
            control.stop(f"loss-spike: {self.spikes} in a row, the last one {loss:.4g}, {usual}")

    def state(self) -> Mapping[str, Any]:
        return {"recent": self.recent, "spikes": self.spikes}

    def load(self, state: Mapping[str, Any]) -> None:
        self.recent, self.spikes = list(state["recent"]), state["spikes"]
