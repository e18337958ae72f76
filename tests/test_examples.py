"""The examples in Python, run as they stand; only the checkpoint is a tiny one. Those that learn are in test_learning.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMOLLM = "smollm2-135m-instruct"


def python(folder: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_their_order(inputs, tmp_path):
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert sum(SMOLLM in cell for cell in cells) == 1
    (tmp_path / "cells.py").write_text("\n".join(cells).replace(SMOLLM, str(inputs / "model")), "utf-8")
    said = python(tmp_path, "cells.py")
    assert re.search(r"^56 rows, \d+ tokens, [\d,]+ of [\d,]+ parameters trained$", said, re.MULTILINE)
    before, after = map(float, re.search(r"held out: ([\d.]+) before, ([\d.]+) after", said).groups())
    assert after < before
    assert said.count("->") == 3
    assert json.loads((tmp_path / "runs/notebook/run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_sweep_is_four_runs_and_the_best_of_them(inputs, tmp_path):
    pytest.importorskip("optuna")
    given = ("--model", inputs / "model", "--data", inputs / "rows.jsonl", "--steps", "2", "--output", "sweep")
    said = python(tmp_path, EXAMPLES / "sweep.py", *given)
    records = [json.loads((tmp_path / f"sweep/trial-{i}/run.json").read_text()) for i in range(4)]
    losses = [record["evals"]["last"]["held_out"]["loss"] for record in records]
    assert len({record["config"]["optim"]["lr"] for record in records}) == 4
    best = min(range(4), key=losses.__getitem__)
    assert f"best: trial {best}, loss {losses[best]:.4f} with" in said
    assert [float(x) for x in re.findall(r"^trial \d: loss ([\d.]+)", said, re.MULTILINE)] == [
        round(x, 4) for x in losses
    ]
