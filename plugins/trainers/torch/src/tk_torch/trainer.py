"""The trainer `torch`: from a plan to a trained model in one straight loop."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from tk.compose import Plan
from tk.contracts import (
    Moment,
    OptimizerFactory,
    Strategy,
    Tracker,
    TrainPlan,
    TrainResult,
    Window,
    World,
)
from tk.errors import TkError
from tk.launching import processes
from tk.scoring import means
from tk_parallel.processes import exchange, own_device
from tk_torch import precomputed, resume
from tk_torch.answers import answers, compared, refusal
from tk_torch.assemble import assemble, described
from tk_torch.checkpoints import Saved
from tk_torch.compiled import compile_blocks
from tk_torch.control import Signals
from tk_torch.course import Course, every, joined
from tk_torch.evaluate import evaluate
from tk_torch.final import final_weights, write_final
from tk_torch.options import TorchOptions
from tk_torch.precision import computed_in
from tk_torch.ranks import check_same_run, on_rank_0
from tk_torch.record import FINAL, resident_memory
from tk_torch.seeds import seed_everything
from tk_torch.session import Running
from tk_torch.settings import Unstarted
from tk_torch.start import starting_point
from tk_torch.update import Sums, Updater, figures


class TorchTrainer:
    """Built as `TorchTrainer(options)`."""

    def __init__(self, options: TorchOptions) -> None:
        self._options = options

    def plan(self, plan: Plan) -> TrainPlan:
        """What `fit` would do: the data is read and encoded, the models have shapes only."""
        world = World(0, processes(plan), own_device())
        parts = assemble(plan, world, device="meta")
        other = resident_memory() if world.device == "cpu" else 0
        found = described(plan, parts, world, len(parts.method.source(parts.loader, Unstarted(plan))))
        from tk_torch.memory import estimate  # what it counts with is not needed in a run

        memory, notes = estimate(plan, parts, world, other)
        return replace(found, memory=memory, notes=[*found.notes, *notes])

    def fit(self, plan: Plan, observers: Sequence[Tracker] = ()) -> TrainResult:
        """Train. `observers` are told of the run's figures on rank 0, besides the config's trackers."""
        strategy: Strategy = plan.one("strategy").build()
        with joined(strategy) as world:
            check_same_run(plan, strategy)
            with Signals().caught() as signals:
                return _Run(plan, strategy, world, self._options, observers).fit(signals)


class _Run(Course):
    """One run, from top to bottom: assemble, begin, loop, end."""

    def __init__(
        self, plan: Plan, strategy: Strategy, world: World, options: TorchOptions, observers: Sequence[Tracker]
    ) -> None:
        super().__init__(plan, strategy, world, observers)
        self.options = options

    def fit(self, signals: Signals) -> TrainResult:
        with self.recorded():
            return self._run(signals)

    def _run(self, signals: Signals) -> TrainResult:
        saved = resume.newest(self.checkpoints, self.plan, self.strategy, self.world)
        self._assemble(saved)
        with closing(self.session):
            self._begin(saved)
            return self._end(self._loop(signals))

    def _assemble(self, saved: Saved | None) -> None:
        """Models, data, the wrapped module and what updates it, as the config or a checkpoint has them."""
        plan, strategy, world = self.plan, self.strategy, self.world
        # when a run goes on, too: its checkpoint lacks what is frozen
        start = starting_point(self.train.start_from) if self.train.start_from else None
        seed_everything(self.train.seed)
        sharded = "sharding" in plan.one("strategy").component.spec.supports
        parts = assemble(plan, world, device="cpu" if sharded else world.device, start=start, precomputed=bool(saved))
        if self.train.compile:
            compile_blocks(parts.scored, world.device)
        self.precision = computed_in(plan, world.device)
        optimizer: OptimizerFactory = plan.one("optim").build()
        module, updating = strategy.wrap(
            parts.scored, self.precision, lambda: optimizer(parts.parameter_groups()), self.train.max_grad_norm
        )
        self.session = Running(plan, parts, module, strategy, world, self.speed)
        self.source = parts.method.source(parts.loader, self.session)
        self.set_out(parts, module, updating, len(self.source))
        self.session.moment = lambda: Moment(self.progress.step, self.total, self.progress.epoch)
        self.updater = Updater(parts.method, module, strategy, updating, world)
        seed_everything(self.train.seed, world.rank + 1)
        if saved:
            precomputed.read(parts, self.folder)
            self.go_on(saved)

    def _begin(self, saved: Saved | None) -> None:
        """The run's files, and the model as it is before the first step."""
        self.begin(described(self.plan, self.parts, self.world, self.total))
        if not saved:
            precomputed.compute(self.parts, self.session, self.strategy, self.folder, self.eval.batch_size, self.told)
        if not saved and self.eval.at_start:
            self._evaluate()
            self.first()
        if not saved and self.eval.generate:
            self.progress.samples = answers(self.plan, self.parts, self.session, pictures=False)
        self.speed.start(self.progress.seconds)

    def _loop(self, signals: Signals) -> str:
        """Steps until the end, a callback or a signal; returns the signal's name."""
        progress, callbacks = self.progress, self.callbacks
        with closing(_closable(self.source.windows(progress.cursor))) as windows:
            while progress.step < self.total and not callbacks.stop:
                window = self.next(windows)
                before = progress.tokens
                with self.speed.phase("update"):
                    interrupted = self._step(window, signals)
                self.speed.step(progress.tokens - before)
                self.source.updated(progress.step, self.session)
                callbacks.on_step(self.metrics)
                last = progress.step == self.total or bool(callbacks.stop)
                if last or interrupted or every(self.train.log_every, progress.step):
                    self.log()
                if last or every(self.eval.every, progress.step):
                    self.figured(self._evaluate())
                ending = last or bool(callbacks.stop or interrupted)
                if ending or callbacks.save or every(self.train.save_every, progress.step):
                    self.save()
                if interrupted:
                    return interrupted
        return ""

    def _step(self, window: Window, signals: Signals) -> str:
        """One optimizer step on a window; returns the name of a signal that any rank has received."""
        progress = self.progress
        totals = self.updater.totals(window.batches)
        rate = self.set_rates()
        sums = self.updater.backward(window.batches, totals)
        heard = self.parts.scoring.heard.taken()
        own = {"sums": sums.plain(), "signal": signals.received, "samples": list(window.samples), "heard": heard}
        told = exchange(self.strategy.gather, own)
        found = figures([part["sums"] for part in told], totals.weights)
        norm = self.updater.update() if math.isfinite(found["loss"]) else self.updater.drop()
        progress.advance(window, totals.tokens, skipped=math.isnan(norm))
        if math.isnan(norm):
            self._check_finite(found["loss"], sums)
        if self.record:
            self.record.samples(progress.step, [sample for part in told for sample in part["samples"]])
            self.record.notes(progress.step, [note for part in told for note in part["heard"]["notes"]])
        self.callbacks.step = progress.step
        self.metrics = {
            **means([part["heard"]["figures"] for part in told]),
            **found,
            "lr": rate,
            "grad_norm": norm,
            "epoch": progress.epoch,
        }
        return next((str(part["signal"]) for part in told if part["signal"]), "")

    def _check_finite(self, loss: float, sums: Sums) -> None:
        """After a step that changed nothing: raises TkError where the run is not to go on so."""
        mend = "lower optim.lr, or compute in bf16 or fp32 (train.precision)"
        step, skipped = self.progress.step, self.progress.skipped
        if skipped >= self.options.max_skipped:
            raise TkError(
                f"step {step}: {skipped} steps in a row were not finite, and the weights do not change: {mend}."
            )
        scaled = self.precision == "fp16" and math.isfinite(loss)  # the loss scale finds its way down
        if scaled or self.train.on_nan == "skip":
            return
        told = exchange(self.strategy.gather, {"rows": [] if math.isfinite(loss) else sums.broken()})
        rows = [row for part in told for row in part["rows"]]
        which = f" Rows: {', '.join(rows[:8])}{' …' if len(rows) > 8 else ''}." if rows else ""
        what = "gradient" if math.isfinite(loss) else "loss"
        raise TkError(
            f"step {step}: the {what} is not finite.{which} Look at them, {mend}, or leave such steps out: --train.on-nan skip."
        )

    def _evaluate(self) -> dict[str, float]:
        """Figures of the held-out examples, {} where there are none; logged, and kept as the latest."""
        if not len(self.parts.data.eval):
            return {}
        found = evaluate(
            self.parts,
            self.module,
            self.strategy.gather,
            self.session,
            batch_size=self.eval.batch_size,
            resamples=self.options.resamples,
            told=self.told,
        )
        self.parts.scoring.heard.taken()  # what rewards log is of training steps
        return self.evaluated(found)

    def _end(self, interrupted: str) -> TrainResult:
        """What was trained, in final/ where the run came to its end; and the record of the run."""
        parts = self.parts
        samples: list[dict[str, Any]] = []
        if self.finished:
            weights = final_weights(self.plan, parts, self.module, self.strategy)
            on_rank_0(self.strategy, self.world, lambda: write_final(self.folder / FINAL, parts, weights))
            if self.eval.generate:
                samples = compared(self.progress.samples, answers(self.plan, parts, self.session))
        why = refusal(self.plan, parts) if self.eval.generate else ""
        return self.end(interrupted, samples, no_samples=why)


def _closable(windows: Iterator[Window]) -> Generator[Window]:
    """The iterator with a `close`, so that what runs ahead in the background ends with the loop."""
    yield from windows
