"""A base for callbacks: every method of the contract with an empty body, so that one overrides what one needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.contracts import Checkpoint, Control


class Base:
    """Does nothing. Subclasses with state override `state` and `load` together."""

    def check(self, figures: Mapping[str, float]) -> None:
        """Before the first step; `figures`: of an evaluation, none where nothing is held out."""

    def on_step(self, control: Control, metrics: Mapping[str, float]) -> None:
        """After an optimizer step. `metrics`: loss, lr, grad_norm and what the method reports."""

    def on_eval(self, control: Control, metrics: Mapping[str, float]) -> None:
        """After an evaluation. `metrics`: loss and what the metrics report."""

    def on_checkpoint(self, control: Control, checkpoint: Checkpoint) -> None:
        """After a checkpoint was written."""

    def state(self) -> Mapping[str, Any]:
        """JSON-able state, saved in checkpoints."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
