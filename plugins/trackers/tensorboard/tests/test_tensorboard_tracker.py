"""The event files, read back with TensorBoard's own reader."""

import resource
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tk.contracts import TrainPlan, TrainResult
from tk.errors import TkError
from tk_tensorboard.options import TensorBoardOptions
from tk_tensorboard.tracker import TensorBoard

CONFIG = {"model": {"name": "m", "revision": None}, "optim": {"lr": 2e-4, "betas": [0.9, 0.95]}, "train": {"seed": 7}}


def plan():
    return TrainPlan(
        rows=10, examples=10, tokens=1234, supervised=600.0, skipped={}, steps=4, batch_size=4, accumulation=1, world=1,
        parameters=1000, trainable=10,
    )  # fmt: skip


def result(folder):
    return TrainResult(
        output=folder, steps=4, metrics={}, evals={"loss": 1.5}, first={"loss": 3.0}, checkpoints=(), seconds=1.0,
        tokens=100, peak_memory=0,
    )  # fmt: skip


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def points(events, tag):
    return [(point.step, pytest.approx(point.value)) for point in events.Scalars(tag)]


def run(folder, **options):
    tracker = TensorBoard(TensorBoardOptions(**options), folder=folder / "tensorboard")
    tracker.start(plan(), CONFIG, 0)
    tracker.log("eval", 0, {"loss": 3.0})
    for step in range(1, 5):
        tracker.log("train", step, {"loss": 3.0 - step / 4, "lr": 1e-4 * step})
    tracker.log("eval", 4, {"loss": 1.5})
    return tracker


def test_figures_are_read_back_by_kind_and_step(tmp_path):
    run(tmp_path).finish(result(tmp_path))
    events = read(tmp_path / "tensorboard")
    assert points(events, "train/loss") == [(1, 2.75), (2, 2.5), (3, 2.25), (4, 2.0)]
    assert points(events, "train/lr") == [(s, 1e-4 * s) for s in range(1, 5)]
    assert points(events, "eval/loss") == [(0, 3.0), (4, 1.5)]
    assert points(events, "result/loss") == [(4, 1.5)]


def test_config_is_text_and_hyperparameters(tmp_path):
    run(tmp_path).finish(result(tmp_path))
    events = read(tmp_path / "tensorboard")
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"lr": 0.0002' in text
    assert "| tokens | 1,234 |" in events.Tensors("plan/text_summary")[0].tensor_proto.string_val[0].decode()
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optim.lr" in data
    assert b"train.seed" in data


def test_a_failed_run_leaves_what_it_logged(tmp_path):
    run(tmp_path).finish(None)
    assert points(read(tmp_path / "tensorboard"), "train/loss")[-1] == (4, 2.0)


def test_every_thins_training_points_only(tmp_path):
    run(tmp_path, every=2, dir=str(tmp_path / "logs" / "tb")).finish(None)
    events = read(tmp_path / "logs" / "tb")
    assert points(events, "train/loss") == [(2, 2.5), (4, 2.0)]
    assert points(events, "eval/loss") == [(0, 3.0), (4, 1.5)]


def test_a_resumed_run_goes_on_in_the_same_folder(tmp_path):
    run(tmp_path).finish(None)
    again = TensorBoard(TensorBoardOptions(), folder=tmp_path / "tensorboard")
    again.start(plan(), CONFIG, 2)
    again.log("train", 3, {"loss": 1.0})
    again.finish(None)
    folder = tmp_path / "tensorboard"
    last = sorted(folder.glob("events*"))[-1]
    assert points(read(last), "train/loss") == [(3, 1.0)]


def test_tensorboard_drops_the_points_after_the_step_that_a_run_goes_on_from(tmp_path):
    run(tmp_path).finish(None)
    again = TensorBoard(TensorBoardOptions(), folder=tmp_path / "tensorboard")
    again.start(plan(), CONFIG, 2)
    again.log("train", 3, {"loss": 1.0})
    again.finish(None)
    assert points(read(tmp_path / "tensorboard"), "train/loss") == [(1, 2.75), (2, 2.5), (3, 1.0)]


def test_neither_torch_nor_tensorflow_is_imported():
    code = "import sys, tk_tensorboard.tracker; print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_full_disk_is_one_error_in_the_thread_that_logs(tmp_path):
    tracker = run(tmp_path, flush_seconds=1)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    try:
        with pytest.raises(TkError, match=r"events\.out\.tfevents\..*: cannot be written: File too large"):
            tracker.finish(None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
