"""Progress of long work: a bar on a terminal, a line now and then where the stream is a file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, TextIO

from tk.contracts import TrainPlan, TrainResult

TRAINERS = {"loss", "lr", "grad_norm", "epoch", "tokens", "tokens_per_second"}
"""Figures that every run has; the others are the method's own, what says most first."""

SHOWN = 2
"""How many of them stand in a line."""


class Counted(Protocol):
    """Items whose number is known before they are there."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def counted(items: Counted, what: str, stream: TextIO, every: float = 5.0, begin: int = 0) -> Iterator[Any]:
    """The items, with a bar of how many there were on a terminal, or a line at least `every` seconds apart.

    begin: how many of them there were before.
    """
    total = len(items)
    if stream.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, what, total, begin, console=Console(file=stream))
        return
    last = time.monotonic()
    for done, item in enumerate(items, begin + 1):
        yield item
        if time.monotonic() - last >= every or done == total:
            last = time.monotonic()
            print(f"{what} {done}/{total}", file=stream, flush=True)


class Progress:
    """A tracker that shows a run: loss, what the method measures first, tokens a second and the time left.

    Lines are at least `every` seconds apart where there is no terminal.
    """

    def __init__(self, stream: TextIO, every: float = 5.0) -> None:
        self._stream, self._every = stream, every
        self._bar: Any = None
        self._task: Any = None
        self._between: Any = None
        self._total = 0
        self._last = 0.0
        self._first: tuple[int, float] | None = None
        self._began: float | None = None
        self._last_between = 0.0

    def start(self, plan: TrainPlan, config: Mapping[str, Any], step: int) -> None:
        self._total = plan.steps
        print(
            f"{plan.examples:,} rows, {plan.tokens:,} tokens, {plan.steps} steps; "
            f"{plan.trainable:,} of {plan.parameters:,} parameters trained",
            file=self._stream,
        )
        for note in plan.notes:
            print(f"note: {note}", file=self._stream)
        if step:
            where = f"goes on after step {step}" if step < plan.steps else "is at its end: no step is left"
            print(f"the run {where}", file=self._stream)
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task("train", total=plan.steps, completed=step, figures="")
            self._bar.start()

    def log(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None:
        if kind == "eval":
            text = "  ".join(f"{n} {v:.4f}" for n, v in figures.items() if not n.endswith(("_low", "_high")))
            self._say(f"step {step}/{self._total}  held out: {text}")
            return
        own = [f"{name} {value:.4f}" for name, value in figures.items() if name not in TRAINERS and "/" not in name]
        text = "  ".join([f"loss {figures.get('loss', float('nan')):.4f}", *own[:SHOWN]])
        text += f"  {figures.get('tokens_per_second', 0):,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=text)
            return
        now = time.monotonic()
        before, then = self._first = self._first or (step, now)
        if now - self._last >= self._every or step == self._total:
            self._last = now
            if step > before:  # the time of the first step is not known: an evaluation and answers came before it
                text += f"  {(now - then) / (step - before) * (self._total - step):.0f} s left"
            self._say(f"step {step}/{self._total}  {text}")

    def progress(self, what: str, done: int, total: int) -> None:
        """Work between steps: a bar of its own on a terminal, which goes when it is done."""
        if self._bar is not None:
            if self._between is None:
                self._between = self._bar.add_task(what, total=total, figures=what)
            self._bar.update(self._between, completed=done)
            if done >= total:
                self._bar.remove_task(self._between)
                self._between = None
            return
        now = time.monotonic()
        if self._began is None:
            self._began = self._last_between = now
        if done >= total:
            self._began = None
        elif done and now - self._last_between >= self._every:
            self._last_between = now
            self._say(f"{what} {done}/{total}  {(now - self._began) / done * (total - done):.0f} s left")

    def finish(self, result: TrainResult | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)
