"""A local plugin file: a reward that tells answers apart for every third prompt only, and a callback that sends a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tk import component
from tk.callbacks import Base


@component("rewards")
def picky(batch: Any) -> list[float]:
    """The share of lower-case letters where the prompt's number is divisible by 3, else 0."""
    numbers = [int(prompt[-1].text.split()[-1]) for prompt in batch.prompts]
    shares = [sum("a" <= c <= "z" for c in m.text) / max(1, len(m.text)) for m in batch.completions]
    return [share if number % 3 == 0 else 0.0 for share, number in zip(shares, numbers, strict=True)]


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
