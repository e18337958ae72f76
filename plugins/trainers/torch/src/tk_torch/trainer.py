"""The trainer `torch`: from a plan to a trained model in one straight loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tk.compose import Plan
from tk.contracts import Checkpoint, Strategy, Tracker, TrainPlan, TrainResult, World
from tk.errors import TkError
from tk_parallel.processes import exchange
from tk_torch import files, resume
from tk_torch.answers import answers, compared, refusal
from tk_torch.assemble import assemble, described
from tk_torch.checkpoints import Checkpoints, Saved
from tk_torch.control import Callbacks, Signals
from tk_torch.evaluate import Evaluation, evaluate
from tk_torch.options import TorchOptions
from tk_torch.ranks import check_same_run, on_rank_0
from tk_torch.record import CHECKPOINTS, FINAL, Record, claim, peak_memory
from tk_torch.resume import Progress
from tk_torch.seeds import seed_everything
from tk_torch.session import Running, Unstarted, role_weights
from tk_torch.update import Updater, figures


class TorchTrainer:
    """Built as `TorchTrainer(options)`."""

    def __init__(self, options: TorchOptions) -> None:
        self._options = options

    def plan(self, plan: Plan) -> TrainPlan:
        """What `fit` would do: the data is read and encoded, the models have shapes only."""
        world = World(0, int(os.environ.get("WORLD_SIZE", "1")), "cpu")
        parts = assemble(plan, world, device="meta")
        return described(plan, parts, world, len(parts.method.source(parts.loader, Unstarted())))

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
    """One run: what stays the same over its steps."""

    def __init__(
        self, plan: Plan, strategy: Strategy, world: World, options: TorchOptions, observers: Sequence[Tracker]
    ) -> None:
        self.plan, self.strategy, self.world, self.options = plan, strategy, world, options
        self.train, self.eval = plan.config.train, plan.config.eval
        self.folder = Path(on_rank_0(strategy, world, lambda: _claimed(plan)))
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.train.keep_last)
        self.record: Record | None = None
        if world.rank == 0:
            trackers = [chosen.build(folder=self.folder) for chosen in plan.many("trackers").values()]
            self.record = Record(self.folder, plan, world, [*observers, *trackers])

    def fit(self, signals: Signals) -> TrainResult:
        try:
            return self._fit(signals)
        except BaseException as error:
            if self.record:
                self.record.fail(error)
            raise

    def _fit(self, signals: Signals) -> TrainResult:
        plan, strategy, world = self.plan, self.strategy, self.world
        begun = time.perf_counter()

        # what is there already
        saved = self._newest()
        beginning = None if saved or not self.train.start_from else resume.starting_point(self.train.start_from)

        # models, data, and the module that is called
        seed_everything(self.train.seed)
        sharded = "sharding" in plan.one("strategy").component.spec.supports
        rejects = self.folder / "skipped.jsonl" if world.rank == 0 else None
        parts = assemble(plan, world, device="cpu" if sharded else world.device, rejects=rejects)
        if beginning and not beginning[1]:
            parts.tuners[parts.first].load(parts.policy, beginning[0])
        module = strategy.wrap(parts.scored, self.train.precision)
        parts.training_mode(module)
        optimizer = plan.one("optim").build()(parts.parameter_groups())
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = plan.one("scheduler").build()
        session = Running(plan, parts, module, strategy, world)
        source = parts.method.source(parts.loader, session)
        total = len(source)
        updater = Updater(parts.method, module, strategy, optimizer, world, self.train.max_grad_norm)
        callbacks = Callbacks({name: chosen.build() for name, chosen in plan.many("callbacks").items()}, total)

        # where the run stands
        seed_everything(self.train.seed, world.rank + 1)
        progress = Progress()
        if beginning and beginning[1]:
            strategy.restore(module, None, Saved(beginning[0]).weights(), {})
        if saved:
            state = resume.restore(saved, module, optimizer, strategy, world, self.train.seed)
            progress = Progress(**state["progress"])
            callbacks.step = progress.step
            callbacks.load(state["callbacks"])
            callbacks.on_checkpoint(_checkpoint(saved.path, progress))
        found = described(plan, parts, world, total)
        if self.record:
            config = {**plan.tree, "train": {**plan.tree["train"], "resume": False}}
            config["output"] = {**plan.tree["output"], "dir": str(self.folder)}
            self.record.start(found, parts.data.report, config, progress.step)

        def held_out() -> Evaluation:
            return evaluate(
                parts, module, strategy, world, self.eval.batch_size, self.options.resamples, self.train.seed
            )

        def checkpoint() -> None:
            progress.seconds = before + time.perf_counter() - started
            path = resume.save(self.checkpoints, progress, plan, module, optimizer, strategy, world, callbacks.state())
            callbacks.save = False
            callbacks.on_checkpoint(_checkpoint(path, progress))
            on_rank_0(strategy, world, lambda: self._retain(callbacks.kept))

        # the model as it is
        evaluating, showing = len(parts.data.eval) > 0, self.eval.generate > 0
        if not saved and evaluating and self.eval.at_start:
            evaluation = held_out()
            progress.first = progress.evals = _kept(evaluation)
            self._log_evaluation(0, evaluation)
        if not saved and showing:
            progress.samples = answers(plan, parts, world)

        # the loop
        started, before, timings = time.perf_counter(), progress.seconds, {"start_up": time.perf_counter() - begun}
        logged, spent, skipped, interrupted, metrics = 0, 0.0, 0, "", {}
        windows = iter(source.windows(progress.cursor))
        while progress.step < total and not callbacks.stop:
            clock = time.perf_counter()
            window = next(windows, None)
            if window is None:
                raise TkError(f"The data source ended after {progress.step} of the {total} windows that it announced.")
            totals = updater.totals(window.batches)
            factor = schedule(progress.step, total) * callbacks.lr_scale
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            sums, norm = updater(window.batches, totals)
            told = exchange(strategy.gather, {"sums": sums.plain(), "signal": signals.received})
            interrupted = next((part["signal"] for part in told if part["signal"]), "")

            progress.step += 1
            progress.cursor, progress.epoch = window.cursor, window.epoch
            progress.tokens += totals.tokens
            callbacks.step = progress.step
            skipped = skipped + 1 if math.isnan(norm) else 0
            if skipped >= self.options.max_skipped:
                raise TkError(
                    f"step {progress.step}: the gradients of {skipped} steps in a row were not finite, and the weights "
                    "no longer change: lower optim.lr, or compute in bf16 or fp32 (train.precision)."
                )
            source.updated(progress.step, session)
            logged, spent = logged + totals.tokens, spent + time.perf_counter() - clock
            timings.setdefault("first_step", time.perf_counter() - begun)

            metrics = {
                **figures([part["sums"] for part in told], totals.weights),
                "lr": rates[0] * factor,
                "grad_norm": norm,
                "epoch": progress.epoch,
            }
            callbacks.on_step(metrics)
            last = progress.step == total or bool(callbacks.stop)
            if last or interrupted or progress.step % self.train.log_every == 0:
                metrics["tokens_per_second"] = logged / spent
                logged, spent = 0, 0.0
                if self.record:
                    self.record.log(progress.step, metrics, tokens=progress.tokens)
            if evaluating and (last or _every(self.eval.every, progress.step)):
                evaluation = held_out()
                progress.evals = _kept(evaluation)
                self._log_evaluation(progress.step, evaluation)
                callbacks.on_eval(evaluation.flat())
            last = last or bool(callbacks.stop)
            if last or interrupted or callbacks.save or _every(self.train.save_every, progress.step):
                checkpoint()
            if interrupted:
                break

        # what it came to
        finished = progress.step == total or bool(callbacks.stop)
        samples = compared(progress.samples, answers(plan, parts, world)) if finished and showing else []
        if finished:
            weights = role_weights(parts, dict(strategy.weights(module, trainable=True)))
            on_rank_0(strategy, world, lambda: _write_final(self.folder / FINAL, parts, weights))
        result = TrainResult(
            output=self.folder,
            steps=progress.step,
            metrics=metrics,
            evals=progress.evals.get("flat", {}),
            first=progress.first.get("flat", {}),
            checkpoints=[Checkpoint(p, Saved(p).step, _metrics(p)) for p in self.checkpoints.all()],
            seconds=before + time.perf_counter() - started,
            tokens=progress.tokens,
            peak_memory=peak_memory(world.device),
            stopped=callbacks.stop or ("" if finished else interrupted),
        )
        if self.record:
            evals = {"first": progress.first.get("sets", {}), "last": progress.evals.get("sets", {})}
            notes = {"samples_skipped": refusal(plan, parts)} if showing and not samples else {}
            self.record.finish(result, timings, evals=evals, samples=samples, **notes)
            self._report()
        return result

    def _newest(self) -> Saved | None:
        """The checkpoint to go on from: the newest whole one, of this config."""

        def find() -> str:
            self.checkpoints.clean()
            saved = self.checkpoints.newest() if self.train.resume else None
            if saved:
                saved.optimizer_file()
                resume.check_config(saved, self.plan)
            return str(saved.path) if saved else ""

        path = on_rank_0(self.strategy, self.world, find)
        if path and not Path(path).is_dir():
            raise TkError(f"rank {self.world.rank} does not see {path}: the output folder must be shared.")
        return Saved(Path(path)) if path else None

    def _retain(self, kept: set[str]) -> None:
        self.checkpoints.retain(kept)

    def _log_evaluation(self, step: int, evaluation: Evaluation) -> None:
        if self.record:
            self.record.log_evaluation(step, evaluation.sets, evaluation.flat())

    def _report(self) -> None:
        settings = self.plan.config.report
        if settings.html or settings.plot:
            from tk_report import write_report  # its drawing library is not needed before

            with files.explained(self.folder / "report.html"):
                write_report(self.folder, html=settings.html, plot=settings.plot)


def _claimed(plan: Plan) -> str:
    folder = Path(plan.config.output.dir or f"runs/{time.strftime('%Y%m%d-%H%M%S')}")
    claim(folder, plan)
    return str(folder)


def _every(period: int | None, step: int) -> bool:
    return period is not None and step % period == 0


def _kept(evaluation: Evaluation) -> dict[str, Any]:
    return {"sets": evaluation.sets, "flat": evaluation.flat()}


def _checkpoint(path: Path, progress: Progress) -> Checkpoint:
    return Checkpoint(path, progress.step, progress.evals.get("flat", {}))


def _metrics(path: Path) -> Mapping[str, float]:
    found: Mapping[str, float] = Saved(path).state()["progress"]["evals"].get("flat", {})
    return found


def _write_final(folder: Path, parts: Any, weights: Mapping[str, Any]) -> None:
    """What each tuner has trained, in the form that peft or transformers opens; other roles in folders of their own."""

    def fill(into: Path) -> None:
        for role, tuner in parts.tuners.items():
            own = into if role == parts.first else into / role
            own.mkdir(exist_ok=True)
            tuner.save(parts.models[role], own, weights[role])

    files.write_folder(folder, fill, manifest=False)
