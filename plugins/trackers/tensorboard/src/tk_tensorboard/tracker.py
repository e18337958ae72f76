"""The tracker `tensorboard`: scalars by the `tensorboard` package alone, so that it starts in milliseconds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from tk.contracts import TrainPlan, TrainResult
from tk_tensorboard.events import Events
from tk_tensorboard.options import TensorBoardOptions
from tk_tracking.flat import flat


class TensorBoard:
    """Writes `train/*` and `eval/*` scalars, the config as text and as hyperparameters, and the plan as text."""

    def __init__(self, options: TensorBoardOptions, folder: Path) -> None:
        self.options = options
        self.folder = Path(options.dir) if options.dir else folder
        self._events: Events | None = None

    def start(self, plan: TrainPlan, config: Mapping[str, Any], step: int) -> None:
        self._events = Events(self.folder, self.options.flush_seconds)
        if step:  # TensorBoard drops what it has from this step on
            self._events.add(
                Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
            )
        self._add(Summary(value=[_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```")]), 0)
        counts = {
            name: getattr(plan, name) for name in ("rows", "examples", "tokens", "steps", "trainable", "parameters")
        }
        table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value:,} |" for name, value in counts.items())])
        self._add(Summary(value=[_text("plan", table)]), 0)
        self._add(hparams_pb(dict(flat(config))), 0)

    def log(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None:
        if kind == "train" and step % self.options.every:
            return
        values = [Summary.Value(tag=f"{kind}/{name}", simple_value=float(value)) for name, value in figures.items()]
        self._add(Summary(value=values), step)

    def finish(self, result: TrainResult | None) -> None:
        """Write what is left and close; after a failed run too, so that its last points are there."""
        if self._events is None:
            return
        if result is not None:
            values = [
                Summary.Value(tag=f"result/{name}", simple_value=float(value))
                for name, value in result.evals.items()
                if math.isfinite(value)
            ]
            self._add(Summary(value=values), result.steps)
        self._events.close()
        self._events = None

    def _add(self, summary: Summary, step: int) -> None:
        if self._events is None:
            raise RuntimeError("the tracker is used before start() or after finish()")
        self._events.add(Event(wall_time=time.time(), step=step, summary=summary))


def _text(tag: str, text: str) -> Any:
    """A text summary in the form that TensorBoard's text plugin reads."""
    value = Summary.Value(tag=f"{tag}/text_summary")
    value.metadata.plugin_data.plugin_name = "text"
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.tensor_shape.dim.add(size=1)
    value.tensor.string_val.append(text.encode())
    return value
