"""The loss curve as a PNG, drawn with matplotlib's objects (no pyplot, so no state outside the figure)."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tk_report.reading import Run, number, series, smooth

_TRAIN, _GREY = "#2f6fde", "#8a919e"
_EVAL = ("#e0662b", "#2a9d6f", "#9a5bd0", "#c23b63")


def loss_png(run: Run) -> bytes:
    """Training loss raw and smoothed, evaluations with their 95 % intervals, and the learning rate below."""
    rates = run.series("lr")
    figure = Figure(figsize=(9, 5.4 if rates else 4.4), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panes = figure.subplots(2 if rates else 1, 1, sharex=True, squeeze=False, height_ratios=[5, 1] if rates else None)
    top = panes[0][0]
    losses = run.series("loss")
    if losses:
        top.plot(*zip(*losses, strict=True), color=_TRAIN, alpha=0.28, linewidth=1)
        top.plot(*zip(*smooth(losses), strict=True), color=_TRAIN, linewidth=2, label="train (smoothed)")
    for index, (name, records) in enumerate(run.eval_sets().items()):
        colour = _EVAL[index % len(_EVAL)]
        points = series(records, "loss")
        if points:
            top.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.5, markersize=5, label=name)
        for record in records:
            step, low, high = (number(record.get(key)) for key in ("step", "loss_low", "loss_high"))
            if step is not None and low is not None and high is not None:
                top.vlines(step, low, high, color=colour, alpha=0.5, linewidth=2)
    top.set_ylabel("loss")
    if top.get_legend_handles_labels()[0]:
        top.legend(frameon=False)
    if rates:
        panes[1][0].plot(*zip(*rates, strict=True), color=_GREY, linewidth=1.5)
        panes[1][0].set_ylabel("lr")
        panes[1][0].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    panes[-1][0].set_xlabel("step")
    for row in panes:
        row[0].grid(alpha=0.25)
        row[0].spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
