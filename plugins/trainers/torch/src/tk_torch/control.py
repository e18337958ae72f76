"""What may end, save or change a run from outside of the loop: signals and callbacks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tk.contracts import Callback, Checkpoint
from tk.errors import TkError


class Signals:
    """Remembers SIGTERM and SIGINT, so that the loop ends after a whole step. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = ""

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Handle the signals while entered; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


class Asked:
    """The Control of one callback: what it asked for since the step began."""

    def __init__(self, shared: Callbacks) -> None:
        self._shared = shared
        self.kept: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return self._shared.step

    @property
    def total(self) -> int:
        return self._shared.total

    def save(self) -> None:
        self._shared.save = True

    def stop(self, reason: str) -> None:
        self._shared.stop = self._shared.stop or reason

    def scale_lr(self, factor: float) -> None:
        if not factor > 0:
            raise TkError(f"A callback scales the learning rate by {factor}; it must be above 0.")
        self._shared.lr_scale *= factor

    def keep(self, checkpoints: Sequence[Path]) -> None:
        self.kept = tuple(Path(path).name for path in checkpoints)


class Callbacks:
    """The run's callbacks. They run on every rank with the same figures, and so ask for the same.

    save, stop: what any of them asked for. lr_scale: product of their factors on the learning rate.
    """

    def __init__(self, callbacks: Mapping[str, Callback], total: int) -> None:
        self._callbacks = callbacks
        self._controls = {name: Asked(self) for name in callbacks}
        self.step = 0
        self.total = total
        self.save = False
        self.stop = ""
        self.lr_scale = 1.0

    def check(self, figures: Mapping[str, float]) -> None:
        for callback in self._callbacks.values():
            callback.check(figures)

    def on_step(self, metrics: Mapping[str, float]) -> None:
        for name, callback in self._callbacks.items():
            callback.on_step(self._controls[name], metrics)

    def on_eval(self, metrics: Mapping[str, float]) -> None:
        for name, callback in self._callbacks.items():
            callback.on_eval(self._controls[name], metrics)

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        for name, callback in self._callbacks.items():
            callback.on_checkpoint(self._controls[name], checkpoint)

    @property
    def kept(self) -> set[str]:
        """Folder names of the checkpoints that any of them wants kept."""
        return {name for control in self._controls.values() for name in control.kept}

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        each = {
            name: {"state": dict(callback.state()), "kept": list(self._controls[name].kept)}
            for name, callback in self._callbacks.items()
        }
        return {"lr_scale": self.lr_scale, "stop": self.stop, "each": each}

    def load(self, state: Mapping[str, Any]) -> None:
        self.lr_scale = state["lr_scale"]
        self.stop = state["stop"]
        for name, own in state["each"].items():
            self._callbacks[name].load(own["state"])
            self._controls[name].kept = tuple(own["kept"])
