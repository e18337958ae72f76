"""A plugin file for runs of online methods: a reward for lower-case letters, one that does not apply, and a callback that sends a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tk import component
from tk.callbacks import Base


@component("rewards", "letters")
async def letters(batch: Any) -> Sequence[float]:
    """The share of an answer's characters that are lower-case letters."""
    return [sum("a" <= c <= "z" for c in m.text) / max(1, len(m.text)) for m in batch.completions]


@component("rewards", "silent")
async def silent(batch: Any) -> Sequence[None]:
    """Never applies."""
    return [None] * len(batch.completions)


@component("rewards", "broken")
async def broken(batch: Any) -> Sequence[float]:
    """Has an answer too few."""
    return [0.0] * (len(batch.completions) - 1)


@dataclass(frozen=True)
class SignalOptions:
    """When."""

    step: int = 1


@component("callbacks", "interrupt", config=SignalOptions)
class Interrupt(Base):
    """Sends the signal that saves and stops."""

    def __init__(self, options: SignalOptions) -> None:
        self.options = options

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        if control.step == self.options.step:
            os.kill(os.getpid(), signal.SIGTERM)
