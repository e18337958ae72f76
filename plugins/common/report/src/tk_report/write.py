"""The way in: a run's folder -> report.html and loss.png, each written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from tk.files import write_file
from tk_report.page import page
from tk_report.reading import read_run


def write_report(output: Path, *, html: bool = True, plot: bool = True) -> list[Path]:
    """Write the report of the run in `output`; returns the files written.

    What run.json and log.jsonl lack is left out. A run without a logged step has no loss.png.
    """
    run = read_run(output)
    written = []
    if plot and (run.train or run.evals):
        from tk_report.plot import loss_png

        written.append(write_file(output / "loss.png", loss_png(run)))
    if html:
        written.append(write_file(output / "report.html", page(run).encode("utf-8", "replace")))
    return written
