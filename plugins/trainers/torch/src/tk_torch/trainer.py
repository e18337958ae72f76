"""The trainer `torch`: from a plan to a trained model in one straight loop."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tk.compose import Plan
from tk.contracts import (
    Moment,
    OptimizerFactory,
    Schedule,
    Strategy,
    Tracker,
    TrainPlan,
    TrainResult,
    Window,
    World,
)
from tk.errors import TkError
from tk.inference import uses_of
from tk.launching import processes
from tk.scoring import means
from tk_parallel.machines import lost_explained
from tk_parallel.processes import exchange, own_device
from tk_torch import precomputed, resume
from tk_torch.answers import answers, compared, refusal
from tk_torch.assemble import assemble, described
from tk_torch.checkpoints import Checkpoints, Saved
from tk_torch.compiled import compile_blocks
from tk_torch.control import Callbacks, Signals
from tk_torch.evaluate import evaluate
from tk_torch.final import draw, final_weights, write_final
from tk_torch.options import TorchOptions
from tk_torch.precision import computed_in
from tk_torch.ranks import check_same_run, on_rank_0
from tk_torch.record import CHECKPOINTS, FINAL, Record, claim, peak_memory, resident_memory
from tk_torch.resume import Progress
from tk_torch.seeds import seed_everything
from tk_torch.session import Running
from tk_torch.settings import Unstarted
from tk_torch.speed import Speed
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
        world = strategy.start()
        try:
            check_same_run(plan, strategy)
            with Signals().caught() as signals:
                return _Run(plan, strategy, world, self._options, observers).fit(signals)
        finally:
            strategy.stop()


class _Run:
    """One run, from top to bottom: assemble, begin, loop, end."""

    def __init__(
        self, plan: Plan, strategy: Strategy, world: World, options: TorchOptions, observers: Sequence[Tracker]
    ) -> None:
        self.plan, self.strategy, self.world, self.options = plan, strategy, world, options
        self.train, self.eval = plan.config.train, plan.config.eval
        self.folder = Path(on_rank_0(strategy, world, lambda: str(claim(plan))))
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.train.keep_last)
        self.record = Record(self.folder, plan, world, observers) if world.rank == 0 else None
        self.progress = Progress()
        self.metrics: dict[str, float] = {}
        self.speed = Speed()

    def fit(self, signals: Signals) -> TrainResult:
        try:
            with lost_explained(self.world):
                result = self._run(signals)
        except BaseException as error:
            if self.record:
                try:
                    self.record.fail(error)
                except TkError as second:  # a full disk, say: it must not hide what failed first
                    error.add_note(str(second))
            raise
        on_rank_0(self.strategy, self.world, lambda: draw(self.plan, self.folder))  # its failure is not the run's
        return result

    def _run(self, signals: Signals) -> TrainResult:
        saved = resume.newest(self.checkpoints, self.plan, self.strategy, self.world)
        self._assemble(saved)
        with closing(self.session):
            self._begin(saved)
            return self._end(self._loop(signals))

    def _assemble(self, saved: Saved | None) -> None:
        """Models, data, the wrapped module and what updates it, as the config or a checkpoint has them."""
        plan, strategy, world = self.plan, self.strategy, self.world
        start = (
            starting_point(self.train.start_from) if self.train.start_from else None
        )  # a checkpoint lacks what is frozen
        seed_everything(self.train.seed)
        sharded = "sharding" in plan.one("strategy").component.spec.supports
        self.parts = parts = assemble(
            plan, world, device="cpu" if sharded else world.device, start=start, precomputed=bool(saved)
        )
        if self.train.compile:
            compile_blocks(parts.scored, world.device)
        self.precision = computed_in(plan, world.device)
        optimizer: OptimizerFactory = plan.one("optim").build()
        self.module, self.optimizer = strategy.wrap(
            parts.scored, self.precision, lambda: optimizer(parts.parameter_groups()), self.train.max_grad_norm
        )
        parts.training_mode(self.module)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule: Schedule = plan.one("scheduler").build()
        self.session = Running(plan, parts, self.module, strategy, world, self.speed)
        self.source = parts.method.source(parts.loader, self.session)
        self.total = len(self.source)
        self.session.moment = lambda: Moment(self.progress.step, self.total, self.progress.epoch)
        self.updater = Updater(parts.method, self.module, strategy, self.optimizer, world)
        built = {name: chosen.build() for name, chosen in plan.many("callbacks").items()}
        self.callbacks = Callbacks(built, self.total)
        seed_everything(self.train.seed, world.rank + 1)
        if saved:
            precomputed.read(parts, self.folder)
            state = resume.restore(saved, self.rows, self.module, self.optimizer, strategy, world, self.train.seed)
            self.progress = Progress(**state["progress"])
            self.callbacks.step = self.progress.step
            self.callbacks.load(state["callbacks"])
            self.callbacks.on_checkpoint(self.progress.checkpoint(saved.path))

    @cached_property
    def rows(self) -> str:
        """Tells the rows to train on from others."""
        return resume.fingerprint(self.parts, "train", self.parts.data.train)

    def _begin(self, saved: Saved | None) -> None:
        """The run's files, and the model as it is before the first step."""

        def start() -> None:
            assert self.record is not None  # on rank 0
            found = described(self.plan, self.parts, self.world, self.total)
            self.record.start(found, self.parts.data, self.progress.step)
            self.checkpoints.clean(self.progress.step)

        if not saved and not len(self.parts.data.eval):
            self.callbacks.check({})
        on_rank_0(self.strategy, self.world, start)
        if not saved:
            precomputed.compute(self.parts, self.session, self.strategy, self.folder, self.eval.batch_size, self._told)
        if not saved and self.eval.at_start:
            self._evaluate()
            self.progress.first = self.progress.evals
            self._check_figures()
        if not saved and self.eval.generate:
            self.progress.samples = answers(self.plan, self.parts, self.session, pictures=False)
        self.speed.start(self.progress.seconds)

    def _loop(self, signals: Signals) -> str:
        """Steps until the end, a callback or a signal; returns the signal's name."""
        progress, callbacks = self.progress, self.callbacks
        with closing(_closable(self.source.windows(progress.cursor))) as windows:
            while progress.step < self.total and not callbacks.stop:
                with self.speed.phase("data"):
                    window = next(windows, None)
                if window is None:
                    raise TkError(f"The data source ended after {progress.step} of {self.total} windows.")
                before = progress.tokens
                with self.speed.phase("update"):
                    interrupted = self._step(window, signals)
                self.speed.step(progress.tokens - before)
                self.source.updated(progress.step, self.session)
                callbacks.on_step(self.metrics)
                last = progress.step == self.total or bool(callbacks.stop)
                if last or interrupted or _every(self.train.log_every, progress.step):
                    self._log()
                if last or _every(self.eval.every, progress.step):
                    self._figured(self._evaluate())
                ending = last or bool(callbacks.stop or interrupted)
                if ending or callbacks.save or _every(self.train.save_every, progress.step):
                    self._save()
                if interrupted:
                    return interrupted
        return ""

    def _step(self, window: Window, signals: Signals) -> str:
        """One optimizer step on a window; returns the name of a signal that any rank has received."""
        progress = self.progress
        totals = self.updater.totals(window.batches)
        factor = self.schedule(progress.step, self.total) * self.callbacks.lr_scale
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
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
            "lr": self.rates[0] * factor,
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

    def _log(self) -> None:
        self.metrics |= self.speed.take()
        if self.record:
            self.record.log(self.progress.step, self.metrics, tokens=self.progress.tokens)

    def _check_figures(self) -> None:
        """Callbacks see the first evaluation; what they refuse is no run."""
        try:
            self.callbacks.check(self.progress.evals.get("flat", {}))
        except TkError:
            if self.record:
                self.record.undo()
            raise

    def _figured(self, figures: Mapping[str, float]) -> None:
        """Callbacks see an evaluation. What they refuse ends the run, not what it has learnt."""
        try:
            self.callbacks.on_eval(figures)
        except TkError:
            self._save()
            raise

    def _told(self, what: str, done: int, total: int) -> None:
        if self.record:
            self.record.progress(what, done, total)

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
            told=self._told,
        )
        self.parts.scoring.heard.taken()  # what rewards log is of training steps
        self.speed.forget()
        flat = found.flat()
        self.progress.evals = {"sets": found.sets, "flat": flat}
        if self.record:
            self.record.log_evaluation(self.progress.step, found.sets, flat)
        return flat

    def _save(self) -> None:
        """A checkpoint of the step just made, and the retention of the others."""
        self.progress.seconds = self.speed.seconds()
        path = resume.save(
            self.checkpoints,
            self.progress,
            self.plan,
            self.rows,
            self.module,
            self.optimizer,
            self.strategy,
            self.world,
            self.callbacks.state(),
        )
        self.callbacks.save = False
        self.callbacks.on_checkpoint(self.progress.checkpoint(path))
        on_rank_0(self.strategy, self.world, lambda: self.checkpoints.retain(self.callbacks.kept))

    def _end(self, interrupted: str) -> TrainResult:
        """What was trained, in final/ where the run came to its end; and the record of the run."""
        progress, parts = self.progress, self.parts
        finished = progress.step == self.total or bool(self.callbacks.stop)
        samples: list[dict[str, Any]] = []
        if finished:
            weights = final_weights(self.plan, parts, self.module, self.strategy)
            on_rank_0(self.strategy, self.world, lambda: write_final(self.folder / FINAL, parts, weights))
            if self.eval.generate:
                samples = compared(progress.samples, answers(self.plan, parts, self.session))
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
            why = refusal(self.plan, parts) if self.eval.generate else ""
            self.record.finish(result, self.speed.timings(), evals=evals, samples=samples, no_samples=why)
        return result


def _closable(windows: Iterator[Window]) -> Generator[Window]:
    """The iterator with a `close`, so that what runs ahead in the background ends with the loop."""
    yield from windows


def _every(period: int | None, step: int) -> bool:
    return period is not None and step % period == 0
