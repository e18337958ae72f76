"""The course of a run, whichever trainer computes its steps: what it leaves, where it stands, what callbacks are told of it,
and what it comes to. A trainer adds how the parts are made and the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tk.compose import Plan
from tk.contracts import Schedule, Strategy, Tracker, TrainPlan, TrainResult, Window, World
from tk.errors import TkError
from tk.inference import uses_of
from tk_parallel.machines import lost_explained
from tk_torch import resume
from tk_torch.assemble import Parts
from tk_torch.checkpoints import Checkpoints, Saved
from tk_torch.control import Callbacks
from tk_torch.evaluate import Evaluation
from tk_torch.final import draw
from tk_torch.ranks import on_rank_0
from tk_torch.record import CHECKPOINTS, Record, claim, peak_memory
from tk_torch.resume import Progress
from tk_torch.speed import Speed


@contextmanager
def joined(strategy: Strategy) -> Iterator[World]:
    """The processes of a run, from where they meet to where they part. One that is lost meanwhile is named."""
    world = strategy.start()
    try:
        with lost_explained(world):
            yield world
    finally:
        strategy.stop()


class Course:
    """What a trainer's run is built on. record: on rank 0 only."""

    def __init__(self, plan: Plan, strategy: Strategy, world: World, observers: Sequence[Tracker]) -> None:
        self.plan, self.strategy, self.world = plan, strategy, world
        self.train, self.eval = plan.config.train, plan.config.eval
        self.folder = Path(on_rank_0(strategy, world, lambda: str(claim(plan))))
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.train.keep_last)
        self.record = Record(self.folder, plan, world, observers) if world.rank == 0 else None
        self.progress, self.speed = Progress(), Speed()
        self.metrics: dict[str, float] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """What ends the run before its end stands in its record; where it came to its end, its report is drawn."""
        try:
            with lost_explained(self.world):
                yield
        except BaseException as error:
            if self.record:
                try:
                    self.record.fail(error)
                except TkError as second:  # a full disk, say: it must not hide what failed first
                    error.add_note(str(second))
            raise
        on_rank_0(self.strategy, self.world, lambda: draw(self.plan, self.folder))  # its failure is not the run's

    def set_out(self, parts: Parts, module: nn.Module, optimizer: torch.optim.Optimizer, total: int) -> None:
        """The parts of the run, the module as the strategy wraps it, what updates it, and its number of steps."""
        self.parts, self.module, self.optimizer, self.total = parts, module, optimizer, total
        parts.training_mode(module)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.schedule: Schedule = self.plan.one("scheduler").build()
        built = {name: chosen.build() for name, chosen in self.plan.many("callbacks").items()}
        self.callbacks = Callbacks(built, total)

    @cached_property
    def rows(self) -> str:
        """Tells the rows to train on from others."""
        return resume.fingerprint(self.parts, "train", self.parts.data.train)

    def go_on(self, saved: Saved) -> None:
        """From a checkpoint of this run."""
        strategy, world, seed = self.strategy, self.world, self.train.seed
        state = resume.restore(saved, self.rows, self.module, self.optimizer, strategy, world, seed)
        self.progress = Progress(**state["progress"])
        self.callbacks.step = self.progress.step
        self.callbacks.load(state["callbacks"])
        self.callbacks.on_checkpoint(self.progress.checkpoint(saved.path))

    def begin(self, found: TrainPlan) -> None:
        """The run's files. A new run that a callback refuses leaves none."""

        def start() -> None:
            assert self.record is not None  # on rank 0
            self.record.start(found, self.parts.data, self.progress.step)
            self.checkpoints.clean(self.progress.step)

        if not self.progress.step and not len(self.parts.data.eval):
            self.callbacks.check({})
        on_rank_0(self.strategy, self.world, start)

    def next(self, windows: Iterator[Window]) -> Window:
        """Raises TkError where the source has ended before the run."""
        with self.speed.phase("data"):
            window = next(windows, None)
        if window is None:
            raise TkError(f"The data source ended after {self.progress.step} of {self.total} windows.")
        return window

    def set_rates(self) -> float:
        """Of the step to come; returns the rate of the first group."""
        factor = self.schedule(self.progress.step, self.total) * self.callbacks.lr_scale
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return self.rates[0] * factor

    def told(self, what: str, done: int, total: int) -> None:
        """How far work between steps is."""
        if self.record:
            self.record.progress(what, done, total)

    def log(self) -> None:
        """The figures of the step just made."""
        self.metrics |= self.speed.take()
        if self.record:
            self.record.log(self.progress.step, self.metrics, tokens=self.progress.tokens)

    def evaluated(self, found: Evaluation) -> dict[str, float]:
        """An evaluation is logged, and kept as the latest. Returns its figures."""
        self.speed.forget()
        flat = found.flat()
        self.progress.evals = {"sets": found.sets, "flat": flat}
        if self.record:
            self.record.log_evaluation(self.progress.step, found.sets, flat)
        return flat

    def first(self) -> None:
        """The latest evaluation is the one before training. Callbacks see it; what they refuse is no run."""
        self.progress.first = self.progress.evals
        try:
            self.callbacks.check(self.progress.evals.get("flat", {}))
        except TkError:
            if self.record:
                self.record.undo()
            raise

    def figured(self, figures: Mapping[str, float]) -> None:
        """Callbacks see an evaluation. What they refuse ends the run, not what it has learnt."""
        try:
            self.callbacks.on_eval(figures)
        except TkError:
            self.save()
            raise

    def save(self) -> None:
        """A checkpoint of the step just made, and the retention of the others."""
        self.progress.seconds = self.speed.seconds()
        where = self.module, self.optimizer, self.strategy, self.world
        path = resume.save(self.checkpoints, self.progress, self.plan, self.rows, *where, self.callbacks.state())
        self.callbacks.save = False
        self.callbacks.on_checkpoint(self.progress.checkpoint(path))
        on_rank_0(self.strategy, self.world, lambda: self.checkpoints.retain(self.callbacks.kept))

    @property
    def finished(self) -> bool:
        """It came to its end, or a callback ended it as if it had."""
        return self.progress.step == self.total or bool(self.callbacks.stop)

    def end(self, interrupted: str, samples: Sequence[Mapping[str, Any]] = (), **more: Any) -> TrainResult:
        """What the run came to, in its record too. interrupted: name of the signal. more: stands in the record only."""
        progress, finished = self.progress, self.finished
        result = TrainResult(
            output=self.folder,
            steps=progress.step,
            metrics=self.metrics,
            evals=progress.evals.get("flat", {}),
            first=progress.first.get("flat", {}),
            checkpoints=[Saved(path).checkpoint() for path in self.checkpoints.all()],
            seconds=self.speed.seconds(),
            tokens=progress.tokens,
            peak_memory=peak_memory(self.world.device),
            stopped=self.callbacks.stop or ("" if finished else interrupted),
            samples=samples,
            dropped=progress.dropped,
            next=uses_of(self.plan, self.folder) if finished else {},
        )
        if self.record:
            evals = {"first": progress.first.get("sets", {}), "last": progress.evals.get("sets", {})}
            self.record.finish(result, self.speed.timings(), evals=evals, samples=samples, **more)
        return result


def every(period: int | None, step: int) -> bool:
    """Whether something that is done all `period` steps is due; never without a period."""
    return period is not None and step % period == 0
