"""Loss scaling for float16: gradients that overflow cost a step, and the scale finds its own level.

The norm of the gradients is global already, so that every rank comes to the same decision without asking the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LossScale:
    """A factor on the loss: halved when a step overflows, doubled after `patience` steps that did not."""

    value: float = 2.0**16
    good: int = 0
    patience: int = 2000

    def update(self, finite: bool) -> None:
        """Take note of a step."""
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(self.value / 2, 1.0)
        elif self.good == self.patience:
            self.value, self.good = self.value * 2, 0

    def state(self) -> dict[str, Tensor]:
        return {"loss_scale/value": torch.tensor(self.value), "loss_scale/good": torch.tensor(self.good)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.value = float(state["loss_scale/value"])
        self.good = int(state["loss_scale/good"])
