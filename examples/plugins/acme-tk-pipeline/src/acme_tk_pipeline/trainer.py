"""The trainer `pipeline`: a loop of its own around methods, losses, tuners and data that know nothing of it.

Both processes read the same rows. Only the second one sees statistics and asks the method for its loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from acme_tk_pipeline import schedule
from acme_tk_pipeline.refusals import check, check_source
from acme_tk_pipeline.stage import LAST, Stage
from acme_tk_pipeline.strategy import PipelineStrategy
from tk.compose import Plan
from tk.contracts import OptimizerFactory, ParamGroup, Tracker, TrainPlan, TrainResult, Window, World
from tk.errors import TkError, UsageError
from tk.launching import processes
from tk_parallel.processes import exchange
from tk_tensor.probe import distance, tolerance
from tk_torch import resume
from tk_torch.assemble import Parts, assemble, described
from tk_torch.checkpoints import Saved
from tk_torch.control import Signals
from tk_torch.course import Course, every, joined
from tk_torch.evaluate import evaluate
from tk_torch.final import final_weights, write_final
from tk_torch.options import TorchOptions
from tk_torch.ranks import check_same_run, on_rank_0, together
from tk_torch.record import FINAL
from tk_torch.seeds import seed_everything
from tk_torch.settings import Configured
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
        with joined(strategy) as world:
            check(plan, world.size)
            check_same_run(plan, strategy)
            with Signals().caught() as signals:
                return _Run(plan, strategy, world, self._options, observers).fit(signals)


class Session(Configured):
    """Implements tk.contracts.Session as far as methods on data ask for it."""

    world = ROWS

    def __init__(self, plan: Plan, parts: Parts) -> None:
        super().__init__(plan)
        self.template, self.layout = parts.template, parts.layout

    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"trainer pipeline: trains on data only, and this method asks its session for {name!r}.")


class _Run(Course):
    """One run, from top to bottom."""

    strategy: PipelineStrategy
    module: Stage

    def __init__(
        self,
        plan: Plan,
        strategy: PipelineStrategy,
        world: World,
        options: TorchOptions,
        observers: Sequence[Tracker],
    ) -> None:
        super().__init__(plan, strategy, world, observers)
        self.options = options

    def fit(self, signals: Signals) -> TrainResult:
        with self.recorded():
            saved = resume.newest(self.checkpoints, self.plan, self.strategy, self.world)
            self._assemble(saved)
            with closing(self.parts.scoring):
                self._begin(saved)
                return self._end(self._loop(signals))

    def _assemble(self, saved: Saved | None) -> None:
        """Both processes load the whole, cut it, and see whether the halves together still compute the same."""
        plan, seed = self.plan, self.train.seed
        start = starting_point(self.train.start_from) if self.train.start_from else None
        seed_everything(seed)
        parts = assemble(plan, ROWS, device="cpu", start=start)
        self.session = Session(plan, parts)
        check_source(plan, parts.method.source(parts.loader, self.session), parts.loader)
        self.described = described(plan, parts, self.world, len(parts.loader))
        whole = _probe(parts, parts.scored)
        groups, optimizer = parts.parameter_groups(), plan.one("optim").build()
        stage, updating = self.strategy.wrap(
            parts.scored, "fp32", lambda: _optimizer(optimizer, groups, parts.scored), self.train.max_grad_norm
        )
        assert isinstance(stage, Stage)
        together(self.strategy, lambda: _compare(parts, whole, stage))
        self.set_out(parts, stage, updating, len(parts.loader))
        seed_everything(seed, self.world.rank + 1)
        if saved:
            self.go_on(saved)

    def _begin(self, saved: Saved | None) -> None:
        self.begin(self.described)
        if not saved and self.eval.at_start and len(self.parts.data.eval):
            self._evaluate()
            self.first()
        self.speed.start(self.progress.seconds)

    def _loop(self, signals: Signals) -> str:
        """Steps until the end, a callback or a signal; returns the signal's name."""
        progress, callbacks = self.progress, self.callbacks
        with closing(self.parts.loader.windows(progress.cursor)) as windows:
            while progress.step < self.total and not callbacks.stop:
                interrupted = self._step(self.next(windows), signals)
                callbacks.on_step(self.metrics)
                last = self.finished
                if last or every(self.train.log_every, progress.step):
                    self.log()
                if len(self.parts.data.eval) and (last or every(self.eval.every, progress.step)):
                    self.figured(self._evaluate())
                ending = last or bool(callbacks.stop or interrupted)
                if ending or callbacks.save or every(self.train.save_every, progress.step):
                    self.save()
                if interrupted:
                    return interrupted
        return ""

    def _step(self, window: Window, signals: Signals) -> str:
        """One optimizer step; returns the name of a signal that either process has received."""
        progress, totals = self.progress, Totals.of(window.batches)
        rate = self.set_rates()
        with self.speed.phase("update"):
            sums = schedule.backward(self.module, self.parts.method, window.batches, totals.weights)
            own = {"sums": sums.plain(), "signal": signals.received}
            told = exchange(self.strategy.gather, own)
            found = figures([told[LAST]["sums"]], totals.weights)
            if math.isfinite(found["loss"]):
                norm = self.strategy.step(self.module, self.optimizer)
            else:
                norm = math.nan
                self.strategy.drop(self.module, self.optimizer)
        progress.advance(window, totals.tokens, skipped=math.isnan(norm))
        self.speed.step(totals.tokens)
        if math.isnan(norm) and (self.train.on_nan == "stop" or progress.skipped >= self.options.max_skipped):
            raise TkError(f"step {progress.step}: the loss or a gradient is not finite: lower optim.lr.")
        self.callbacks.step = progress.step
        self.metrics = {**found, "lr": rate, "grad_norm": norm, "epoch": progress.epoch}
        return next((part["signal"] for part in told if part["signal"]), "")

    def _evaluate(self) -> dict[str, float]:
        """Both processes are told the statistics of held-out rows, and come to the same figures."""
        found = evaluate(
            self.parts,
            self.module,
            lambda values: [values],
            self.session,
            batch_size=self.eval.batch_size,
            resamples=self.options.resamples,
            told=self.told,
        )
        return self.evaluated(found)

    def _end(self, interrupted: str) -> TrainResult:
        held = exchange(self.strategy.gather, self.module.held())
        if self.finished:
            weights = final_weights(self.plan, self.parts, self.module, self.strategy)
            self.module.close()
            on_rank_0(self.strategy, self.world, lambda: write_final(self.folder / FINAL, self.parts, weights))
        return self.end(interrupted, stages=held)


def _probe(parts: Parts, module: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """What a module says of the first micro-batch, without dropout."""
    batch = parts.loader.window(0, 0).batches[0]
    with torch.no_grad():
        found: dict[str, dict[str, torch.Tensor]] = module(
            batch.inputs, batch.fields, [replace(p, grad=False) for p in parts.method.passes(batch)]
        )
    return found


def _compare(parts: Parts, whole: dict[str, dict[str, torch.Tensor]], stage: Stage) -> None:
    """Raises UsageError where a model does more between its layers than to call them."""
    halves = _probe(parts, stage)
    apart = max(distance(halves[key][name], value) for key, stats in whole.items() for name, value in stats.items())
    if apart > tolerance(stage):
        name = type(parts.policy.module).__name__
        raise UsageError(f"trainer pipeline: {name}, cut in two, computes something else ({apart:.1e} apart).")


def _optimizer(make: OptimizerFactory, groups: Sequence[ParamGroup], scored: nn.Module) -> torch.optim.Optimizer:
    """Of what is left here of the whole model's groups; all groups, so that both processes have the same rates."""
    here = {id(p) for p in scored.parameters()}
    return make([replace(g, parameters=[p for p in g.parameters if id(p) in here]) for g in groups])
