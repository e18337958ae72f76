"""The trainer `pipeline`: a loop of its own around methods, losses, tuners and data that know nothing of it.

Both processes read the same rows. Only the second one sees statistics and asks the method for its loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acme_tk_pipeline import schedule
from acme_tk_pipeline.refusals import check, check_source
from acme_tk_pipeline.stage import FIRST, LAST, Stage
from acme_tk_pipeline.strategy import PipelineStrategy
from tk.compose import Plan
from tk.contracts import OptimizerFactory, ParamGroup, Schedule, Tracker, TrainPlan, TrainResult, Window, World
from tk.errors import TkError, UsageError
from tk.inference import uses_of
from tk.launching import processes
from tk_parallel.processes import exchange
from tk_tensor.probe import distance, tolerance
from tk_torch import resume
from tk_torch.assemble import Parts, assemble, described
from tk_torch.checkpoints import Checkpoints, Saved
from tk_torch.control import Callbacks, Signals
from tk_torch.evaluate import evaluate
from tk_torch.final import draw, final_weights, write_final
from tk_torch.options import TorchOptions
from tk_torch.ranks import check_same_run, on_rank_0, together
from tk_torch.record import CHECKPOINTS, FINAL, Record, claim, peak_memory
from tk_torch.resume import Progress
from tk_torch.seeds import seed_everything
from tk_torch.settings import Configured
from tk_torch.speed import Speed
from tk_torch.start import starting_point
from tk_torch.update import Totals, figures

ROWS = World(0, 1, "cpu")
"""Who shares out the rows: both processes are one."""


class PipelineTrainer:
    """Built as `PipelineTrainer(options)`. Implements tk.contracts.Trainer."""

    def __init__(self, options: TorchOptions) -> None:
        self._options = options

    def plan(self, plan: Plan) -> TrainPlan:
        check(plan, processes(plan))
        parts = assemble(plan, ROWS, device="meta")
        check_source(plan, parts.method.source(parts.loader, Session(plan, parts)), parts.loader)
        plan.one("strategy").build().halves(parts.scored)
        return described(plan, parts, World(0, processes(plan), "cpu"), len(parts.loader))

    def fit(self, plan: Plan, observers: Sequence[Tracker] = ()) -> TrainResult:
        strategy: PipelineStrategy = plan.one("strategy").build()
        world = strategy.start()
        try:
            check(plan, world.size)
            check_same_run(plan, strategy)
            with Signals().caught() as signals:
                return _Run(plan, strategy, world, self._options, observers).fit(signals)
        finally:
            strategy.stop()


class Session(Configured):
    """Implements tk.contracts.Session as far as methods on data ask for it."""

    world = ROWS

    def __init__(self, plan: Plan, parts: Parts) -> None:
        super().__init__(plan)
        self.template, self.layout = parts.template, parts.layout

    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"trainer pipeline: trains on data only, and this method asks its session for {name!r}.")


class _Run:
    """One run, from top to bottom."""

    def __init__(
        self,
        plan: Plan,
        strategy: PipelineStrategy,
        world: World,
        options: TorchOptions,
        observers: Sequence[Tracker],
    ) -> None:
        self.plan, self.strategy, self.world, self.options = plan, strategy, world, options
        self.train, self.eval = plan.config.train, plan.config.eval
        self.folder = Path(on_rank_0(strategy, world, lambda: str(claim(plan))))
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.train.keep_last)
        self.record = Record(self.folder, plan, world, observers) if world.rank == FIRST else None
        self.progress, self.speed = Progress(), Speed()
        self.metrics: dict[str, float] = {}

    def fit(self, signals: Signals) -> TrainResult:
        try:
            saved = resume.newest(self.checkpoints, self.plan, self.strategy, self.world)
            self._assemble(saved)
            with closing(self.parts.scoring):
                self._begin(saved)
                result = self._end(self._loop(signals))
        except BaseException as error:
            if self.record:
                self.record.fail(error)
            raise
        on_rank_0(self.strategy, self.world, lambda: draw(self.plan, self.folder))  # its failure is not the run's
        return result

    def _assemble(self, saved: Saved | None) -> None:
        """Both processes load the whole, cut it, and see whether the halves together still compute the same."""
        plan, seed = self.plan, self.train.seed
        start = starting_point(self.train.start_from) if self.train.start_from else None
        seed_everything(seed)
        self.parts = parts = assemble(plan, ROWS, device="cpu", start=start)
        self.session = Session(plan, parts)
        check_source(plan, parts.method.source(parts.loader, self.session), parts.loader)
        self.total = len(parts.loader)
        self.described = described(plan, parts, self.world, self.total)
        whole = self._probe(parts.scored)
        groups, optimizer = parts.parameter_groups(), plan.one("optim").build()
        stage, self.optimizer = self.strategy.wrap(
            parts.scored, "fp32", lambda: _optimizer(optimizer, groups, parts.scored), self.train.max_grad_norm
        )
        assert isinstance(stage, Stage)
        self.stage = stage
        together(self.strategy, lambda: self._compare(whole, self._probe(self.stage)))
        parts.training_mode(self.stage)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule: Schedule = plan.one("scheduler").build()
        built = {name: chosen.build() for name, chosen in plan.many("callbacks").items()}
        self.callbacks = Callbacks(built, self.total)
        self.rows = resume.fingerprint(parts, "train", parts.data.train)
        seed_everything(seed, self.world.rank + 1)
        if saved:
            state = resume.restore(saved, self.rows, self.stage, self.optimizer, self.strategy, self.world, seed)
            self.progress = Progress(**state["progress"])
            self.callbacks.step = self.progress.step
            self.callbacks.load(state["callbacks"])
            self.callbacks.on_checkpoint(self.progress.checkpoint(saved.path))

    def _probe(self, module: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
        """What a module says of the first micro-batch, without dropout."""
        batch = self.parts.loader.window(0, 0).batches[0]
        with torch.no_grad():
            passes = [replace(p, grad=False) for p in self.parts.method.passes(batch)]
            return module(batch.inputs, batch.fields, passes)

    def _compare(self, whole: dict[str, dict[str, torch.Tensor]], halves: dict[str, dict[str, torch.Tensor]]) -> None:
        """Raises UsageError where a model does more between its layers than to call them."""
        apart = max(distance(halves[key][name], value) for key, stats in whole.items() for name, value in stats.items())
        if apart > tolerance(self.stage):
            name = type(self.parts.policy.module).__name__
            raise UsageError(f"trainer pipeline: {name}, cut in two, computes something else ({apart:.1e} apart).")

    def _begin(self, saved: Saved | None) -> None:
        def start() -> None:
            assert self.record is not None  # on the first process
            self.record.start(self.described, self.parts.data, self.progress.step)
            self.checkpoints.clean(self.progress.step)

        if not saved and not len(self.parts.data.eval):
            self.callbacks.check({})
        on_rank_0(self.strategy, self.world, start)
        if not saved and self.eval.at_start and len(self.parts.data.eval):
            self._evaluate()
            self.progress.first = self.progress.evals
            self._check_figures()
        self.speed.start(self.progress.seconds)

    def _check_figures(self) -> None:
        """Callbacks see the first evaluation; what they refuse is no run."""
        try:
            self.callbacks.check(self.progress.evals["flat"])
        except TkError:
            if self.record:
                self.record.undo()
            raise

    def _loop(self, signals: Signals) -> str:
        """Steps until the end, a callback or a signal; returns the signal's name."""
        progress, callbacks, train = self.progress, self.callbacks, self.train
        with closing(self.parts.loader.windows(progress.cursor)) as windows:
            for window in windows:
                if progress.step == self.total or callbacks.stop:
                    break
                interrupted = self._step(window, signals)
                callbacks.on_step(self.metrics)
                last = progress.step == self.total or bool(callbacks.stop)
                if self.record and (last or _every(train.log_every, progress.step)):
                    self.record.log(progress.step, self.metrics | self.speed.take(), tokens=progress.tokens)
                if len(self.parts.data.eval) and (last or _every(self.eval.every, progress.step)):
                    self._evaluate()
                    callbacks.on_eval(progress.evals["flat"])
                if last or interrupted or callbacks.stop or callbacks.save or _every(train.save_every, progress.step):
                    self._save()
                if interrupted:
                    return interrupted
        return ""

    def _step(self, window: Window, signals: Signals) -> str:
        """One optimizer step; returns the name of a signal that either process has received."""
        progress, totals = self.progress, Totals.of(window.batches)
        factor = self.schedule(progress.step, self.total) * self.callbacks.lr_scale
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        with self.speed.phase("update"):
            sums = schedule.backward(self.stage, self.parts.method, window.batches, totals.weights)
            own = {"sums": sums.plain(), "signal": signals.received}
            told = exchange(self.strategy.gather, own)
            found = figures([told[LAST]["sums"]], totals.weights)
            if math.isfinite(found["loss"]):
                norm = self.strategy.step(self.stage, self.optimizer)
            else:
                norm = math.nan
                self.strategy.drop(self.stage, self.optimizer)
        progress.advance(window, totals.tokens, skipped=math.isnan(norm))
        self.speed.step(totals.tokens)
        if math.isnan(norm) and (self.train.on_nan == "stop" or progress.skipped >= self.options.max_skipped):
            raise TkError(f"step {progress.step}: the loss or a gradient is not finite: lower optim.lr.")
        self.callbacks.step = progress.step
        self.metrics = {**found, "lr": self.rates[0] * factor, "grad_norm": norm, "epoch": progress.epoch}
        return next((part["signal"] for part in told if part["signal"]), "")

    def _evaluate(self) -> None:
        """Both processes are told the statistics of held-out rows, and come to the same figures."""
        found = evaluate(
            self.parts,
            self.stage,
            lambda values: [values],
            self.session,
            batch_size=self.eval.batch_size,
            resamples=self.options.resamples,
            told=self.record.progress if self.record else _unheard,
        )
        self.progress.evals = {"sets": found.sets, "flat": found.flat()}
        if self.record:
            self.record.log_evaluation(self.progress.step, found.sets, found.flat())

    def _save(self) -> None:
        self.progress.seconds = self.speed.seconds()
        where = self.stage, self.optimizer, self.strategy, self.world
        path = resume.save(self.checkpoints, self.progress, self.plan, self.rows, *where, self.callbacks.state())
        self.callbacks.save = False
        self.callbacks.on_checkpoint(self.progress.checkpoint(path))
        on_rank_0(self.strategy, self.world, lambda: self.checkpoints.retain(self.callbacks.kept))

    def _end(self, interrupted: str) -> TrainResult:
        progress, parts = self.progress, self.parts
        finished = progress.step == self.total or bool(self.callbacks.stop)
        held = exchange(self.strategy.gather, self.stage.held())
        if finished:
            weights = final_weights(self.plan, parts, self.stage, self.strategy)
            self.stage.close()
            on_rank_0(self.strategy, self.world, lambda: write_final(self.folder / FINAL, parts, weights))
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
            dropped=progress.dropped,
            next=uses_of(self.plan, self.folder) if finished else {},
        )
        if self.record:
            evals = {"first": progress.first.get("sets", {}), "last": progress.evals.get("sets", {})}
            self.record.finish(result, self.speed.timings(), evals=evals, stages=held)
        return result


def _optimizer(make: OptimizerFactory, groups: Sequence[ParamGroup], scored: nn.Module) -> torch.optim.Optimizer:
    """Of what is left here of the whole model's groups; all groups, so that both processes have the same rates."""
    here = {id(p) for p in scored.parameters()}
    return make([replace(g, parameters=[p for p in g.parameters if id(p) in here]) for g in groups])


def _every(period: int | None, step: int) -> bool:
    return period is not None and step % period == 0


def _unheard(what: str, done: int, total: int) -> None:
    """The second process keeps no record."""
