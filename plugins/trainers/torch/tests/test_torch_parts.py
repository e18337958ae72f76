"""Small parts of the loop: objective and figures, random streams, folders that are whole, signals."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tk.contracts import Step, Term
from tk.errors import TkError
from tk_parallel.testing import run_processes
from tk_torch import files, seeds
from tk_torch.control import Signals
from tk_torch.update import Sums, figures, objective


def test_the_objective_divides_each_term_by_its_own_total() -> None:
    step = Step({"a": Term(torch.tensor(6.0)), "b": Term(torch.tensor(4.0), 0.5), "none": Term(torch.tensor(9.0))})
    assert objective(step, {"a": 3.0, "b": 8.0, "none": 0.0}).item() == pytest.approx(2 + 0.25)
    with pytest.raises(TkError, match="'a', for which its batches declare no weight"):
        objective(step, {"b": 1.0})
    with pytest.raises(TkError, match="no term"):
        objective(Step({}), {})


def test_reported_figures_are_totals_over_all_ranks() -> None:
    told = []
    for rank in range(2):
        sums = Sums()
        for value in (1.0, 2.0):
            metrics = {"accuracy": (torch.tensor(value), 2.0)}
            sums.add(Step({"a": Term(torch.tensor(value + rank)), "b": Term(torch.tensor(1.0), 2.0)}, metrics), ())
        told.append(sums.plain())
    found = figures(told, {"a": 16.0, "b": 4.0})
    assert found == pytest.approx({"loss": 0.5 + 2.0, "a": 0.5, "b": 1.0, "accuracy": 6 / 8})


def test_all_random_streams_are_put_back() -> None:
    def draw() -> tuple[float, ...]:
        return (torch.rand(()).item(), random.random(), float(np.random.rand()), random.gauss(0, 1))

    seeds.seed_everything(5, 1)
    draw()
    state = seeds.full_state("cpu")
    expected = [draw() for _ in range(3)]
    seeds.seed_everything(6)
    seeds.set_full_state(state, "cpu")
    assert [draw() for _ in range(3)] == expected


def test_seeds_of_ranks_give_unrelated_streams() -> None:
    drawn = set()
    for words in ((0,), (0, 1), (0, 2), (1, 1), (1,)):
        seeds.seed_everything(*words)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 5


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    files.write_folder(folder, lambda into: (into / "a").write_text("first") and None)
    assert files.problem(folder) == ""

    def fails(into: Path) -> None:
        (into / "a").write_text("second")
        raise OSError(28, "No space left on device")

    with pytest.raises(TkError, match="made: cannot be written.*No space left"):
        files.write_folder(folder, fails)
    assert (folder / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    (folder / "a").write_text("other")
    assert "corrupt" in files.problem(folder)
    (folder / "a").write_text("longer than before")
    assert "bytes instead of" in files.problem(folder)
    (folder / "a").unlink()
    assert "missing" in files.problem(folder)


def test_what_is_not_finite_is_null_in_json() -> None:
    text = files.json_text({"a": [float("nan"), 1.5], "b": float("inf"), "c": Path("x")})
    assert json.loads(text) == {"a": [None, 1.5], "b": None, "c": "x"}


def test_the_first_interrupt_is_noted_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Signals().caught() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_process_that_is_lost_before_or_after_the_steps_is_named() -> None:
    script = Path(__file__).with_name("lost_outside.py")
    first, _ = run_processes(script, world=2, expect=None)
    assert first.returncode == 7, first.stderr
    assert first.stdout.startswith("Process 0 of 2 cannot go on without process 1 at 127.0.0.1: ")
