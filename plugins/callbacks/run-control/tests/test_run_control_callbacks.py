"""The callbacks that act on evaluations, driven through a recorded run."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.contracts import Checkpoint
from tk.errors import UsageError
from tk_run_control.best import BestCheckpoints
from tk_run_control.options import BestCheckpointsOptions, EarlyStoppingOptions, PlateauOptions
from tk_run_control.plateau import ReduceLrOnPlateau
from tk_run_control.stopping import EarlyStopping

VALUES = st.lists(st.floats(0.0, 4.0, allow_nan=False).map(lambda x: round(x, 1)), min_size=1, max_size=30)


class Run:
    """The trainer's side of `Control`: steps, evaluates, writes checkpoints when asked, and removes the rest."""

    def __init__(self, callback):
        self.callback, self.step, self.total = callback, 0, 100
        self.wanted_save, self.stopped, self.scale = False, "", 1.0
        self.kept, self.saves = [], []

    def save(self):
        self.wanted_save = True

    def stop(self, reason):
        self.stopped = reason

    def scale_lr(self, factor):
        self.scale *= factor

    def keep(self, checkpoints):
        self.kept = list(checkpoints)

    def evaluate(self, value, name="loss"):
        self.step += 1
        self.callback.on_eval(self, {name: value})
        if self.wanted_save:
            self.wanted_save = False
            self.checkpoint({name: value})

    def checkpoint(self, metrics=None):
        checkpoint = Checkpoint(Path(f"checkpoint-{self.step}"), self.step, metrics or {})
        self.saves.append(checkpoint.path)
        self.callback.on_checkpoint(self, checkpoint)


def resumed(callback):
    """A new callback with the state that a checkpoint would hold."""
    fresh = type(callback)(callback.options)
    fresh.load(json.loads(json.dumps(callback.state(), allow_nan=False)))
    return fresh


def test_early_stopping_waits_for_patience_evaluations_without_improvement():
    run = Run(EarlyStopping(EarlyStoppingOptions(patience=2)))
    for value in (3.0, 2.0, 2.5, 1.9, 1.9):
        run.evaluate(value)
        assert not run.stopped
    run.evaluate(2.0)
    assert run.stopped == "early-stopping: loss did not improve in 2 evaluations (best 1.9 at step 4)"


def test_early_stopping_follows_mode_and_min_delta():
    run = Run(EarlyStopping(EarlyStoppingOptions(metric="accuracy", mode="max", patience=1, min_delta=0.1)))
    run.evaluate(0.5, "accuracy")
    run.evaluate(0.7, "accuracy")
    assert not run.stopped
    run.evaluate(0.75, "accuracy")
    assert run.stopped


def test_a_loss_that_is_no_number_never_counts_as_improvement():
    run = Run(EarlyStopping(EarlyStoppingOptions(patience=2)))
    run.evaluate(float("nan"))
    run.evaluate(float("nan"))
    assert "never a number" in run.stopped


def test_a_misspelled_metric_is_a_usage_error_that_names_the_nearest():
    run = Run(EarlyStopping(EarlyStoppingOptions(metric="los")))
    with pytest.raises(UsageError, match=r"early-stopping\.metric: .* no figure 'los' \(it has: loss\)\. Did you mean"):
        run.evaluate(1.0)


def test_eval_in_front_of_a_metric_is_understood():
    run = Run(EarlyStopping(EarlyStoppingOptions(metric="eval/loss", patience=1)))
    run.evaluate(1.0)
    run.evaluate(1.0)
    assert run.stopped


@settings(deadline=None)
@given(VALUES, st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_best_checkpoints_keeps_the_k_best_evaluations(values, keep, mode):
    run = Run(BestCheckpoints(BestCheckpointsOptions(keep=keep, mode=mode)))
    for value in values:
        run.evaluate(value)
    sign = 1 if mode == "min" else -1
    best = sorted(range(len(values)), key=lambda i: (sign * values[i], i))[:keep]
    assert {path.name for path in run.kept} == {f"checkpoint-{i + 1}" for i in best}
    assert len(run.saves) <= len(values)


def test_checkpoints_that_were_not_evaluated_do_not_displace_evaluated_ones():
    run = Run(BestCheckpoints(BestCheckpointsOptions(keep=1)))
    run.evaluate(1.0)
    run.step += 1
    run.checkpoint({"loss": 1.0})
    assert [path.name for path in run.kept] == ["checkpoint-1"]


def test_writing_a_checkpoint_again_counts_it_once():
    run = Run(BestCheckpoints(BestCheckpointsOptions(keep=2)))
    run.evaluate(1.0)
    run.checkpoint({"loss": 1.0})
    assert [path.name for path in run.kept] == ["checkpoint-1"]


@settings(deadline=None)
@given(
    VALUES,
    st.floats(0.1, 0.9),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from(["min", "max"]),
    st.sampled_from(["relative", "absolute"]),
    st.sampled_from([0.0, 1e-4, 0.3]),
    st.sampled_from([0.0, 0.05]),
)
def test_reduce_lr_on_plateau_equals_torch(values, factor, patience, cooldown, mode, relative, threshold, floor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode={"relative": "rel", "absolute": "abs"}[relative],
        cooldown=cooldown,
        min_lr=floor,
        eps=0.0,
    )
    options = PlateauOptions(
        factor=factor,
        patience=patience,
        mode=mode,
        threshold=threshold,
        threshold_mode=relative,
        cooldown=cooldown,
        min_scale=floor,
    )
    run = Run(ReduceLrOnPlateau(options))
    for value in values:
        reference.step(value)
        run.evaluate(value)
        assert run.scale == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@settings(deadline=None)
@given(VALUES, st.integers(0, 29))
def test_a_resumed_run_decides_as_the_uninterrupted_one(values, cut):
    cut = min(cut, len(values))
    for build in (
        lambda: EarlyStopping(EarlyStoppingOptions(patience=2)),
        lambda: BestCheckpoints(BestCheckpointsOptions(keep=2)),
        lambda: ReduceLrOnPlateau(PlateauOptions(patience=1, cooldown=1)),
    ):
        whole, parts = Run(build()), Run(build())
        for index, value in enumerate(values):
            whole.evaluate(value)
            if index == cut:
                parts.callback = resumed(parts.callback)
            parts.evaluate(value)
        assert (whole.stopped, whole.kept, whole.scale) == (parts.stopped, parts.kept, parts.scale)
        assert whole.callback.state() == parts.callback.state()
