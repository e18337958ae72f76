"""Progress of a run on a terminal, as a tracker: a bar where it is one, a line now and then where it is a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from tk.contracts import TrainPlan, TrainResult


class Progress:
    """Loss, tokens a second and the time left. Lines are at least `every` seconds apart where there is no terminal."""

    def __init__(self, stream: TextIO, every: float = 5.0) -> None:
        self._stream, self._every = stream, every
        self._bar: Any = None
        self._task: Any = None
        self._total = 0
        self._started = self._last = 0.0
        self._first = 0

    def start(self, plan: TrainPlan, config: Mapping[str, Any]) -> None:
        self._total, self._started = plan.steps, time.monotonic()
        print(
            f"{plan.examples:,} rows, {plan.tokens:,} tokens, {plan.steps} steps; "
            f"{plan.trainable:,} of {plan.parameters:,} parameters trained",
            file=self._stream,
        )
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task("train", total=plan.steps, figures="")
            self._bar.start()

    def log(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None:
        if kind == "eval":
            text = "  ".join(f"{n} {v:.4f}" for n, v in figures.items() if not n.endswith(("_low", "_high")))
            self._say(f"step {step}/{self._total}  held out: {text}")
            return
        self._first = self._first or step
        text = f"loss {figures.get('loss', float('nan')):.4f}  {figures.get('tokens_per_second', 0):,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=text)
            return
        now = time.monotonic()
        if now - self._last >= self._every or step == self._total:
            self._last = now
            done = step - self._first + 1
            left = (now - self._started) / max(done, 1) * (self._total - step)
            self._say(f"step {step}/{self._total}  {text}  {left:.0f} s left")

    def finish(self, result: TrainResult | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)
