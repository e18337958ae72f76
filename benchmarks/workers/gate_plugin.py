"""A local plugin for `tk train`: the callback `gate` runs the trainer a few steps at a time."""

from __future__ import annotations

from collections.abc import Mapping

from gate import Gate

from tk import component
from tk.callbacks import Base
from tk.contracts import Control


@component("callbacks", "gate", summary="Times the trainer's steps.")
class Gated(Base):
    def __init__(self) -> None:
        self._gate = Gate()

    def on_step(self, control: Control, metrics: Mapping[str, float]) -> None:
        self._gate.loss(metrics["loss"])
        self._gate.step()
