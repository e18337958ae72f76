"""Behaviour of callbacks: their state is JSON, and a resumed run decides as an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tk.contracts import Callback, Checkpoint
from tk.testing.need import is_finite, need


@dataclass
class RecordedRun:
    """A run without a model: gives a callback steps, evaluations and checkpoints, and records what it asks for."""

    callback: Callback
    total: int = 100
    step: int = 0
    lr_scale: float = 1.0
    stopped: str = ""
    kept: Sequence[Path] = ()
    saves: list[int] = field(default_factory=list)
    asked: bool = False

    def save(self) -> None:
        self.asked = True

    def stop(self, reason: str) -> None:
        need(reason.strip(), "stop() was called without a reason")
        self.stopped = reason

    def scale_lr(self, factor: float) -> None:
        need(is_finite(factor) and factor > 0, f"scale_lr({factor!r}): a positive number")
        self.lr_scale *= factor

    def keep(self, checkpoints: Sequence[Path]) -> None:
        self.kept = tuple(checkpoints)

    def advance(self, train: Mapping[str, float], evaluation: Mapping[str, float] | None = None) -> None:
        """One optimizer step, then an evaluation where given, then a checkpoint where one was asked for."""
        self.step += 1
        self.callback.on_step(self, train)
        if evaluation is not None:
            self.callback.on_eval(self, evaluation)
        if self.asked:
            self.asked = False
            self.saves.append(self.step)
            self.callback.on_checkpoint(self, Checkpoint(Path(f"checkpoint-{self.step}"), self.step, evaluation or {}))

    def decisions(self) -> tuple[object, ...]:
        """What the callback has asked for so far."""
        return self.stopped, tuple(self.saves), self.lr_scale, tuple(self.kept)


FALLING = tuple({"loss": value} for value in (3.0, 2.0, 1.5, 1.5, 1.6, 1.4, 1.4, 1.41, 1.42, 1.43))


def check_callback(
    build: Callable[[], Callback], evaluations: Sequence[Mapping[str, float]] = FALLING
) -> tuple[object, ...]:
    """Run the callback over the evaluations, once through and once resumed at every step. Returns its decisions."""
    whole = RecordedRun(build(), total=len(evaluations))
    for figures in evaluations:
        whole.advance({"loss": figures.get("loss", 1.0), "lr": 1e-3}, figures)
    for cut in range(len(evaluations)):
        run = RecordedRun(build(), total=len(evaluations))
        for index, figures in enumerate(evaluations):
            if index == cut:
                run.callback = _resumed(run.callback, build())
            run.advance({"loss": figures.get("loss", 1.0), "lr": 1e-3}, figures)
        name = type(run.callback).__name__
        need(
            run.decisions() == whole.decisions(),
            f"{name} resumed after {cut} evaluations decides otherwise: {run.decisions()} and not {whole.decisions()}",
        )
    return whole.decisions()


def _resumed(callback: Callback, fresh: Callback) -> Callback:
    name = type(callback).__name__
    state = callback.state()
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}.state() is not JSON: {error}") from error
    fresh.load(json.loads(text))
    again = json.dumps(fresh.state(), allow_nan=False)
    need(
        json.loads(again) == json.loads(text),
        f"{name}.load() does not take back what state() gave: {text} became {again}",
    )
    return fresh
