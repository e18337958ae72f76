"""A tracker whose library runs in a process of its own, told the run's figures without waiting for it.

What it has begun is kept in `<run>/<tracker>/run.json`, so that a run that is resumed goes on as the same remote run; what
the library prints stands in `worker.log` beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any, Literal

from tk.contracts import TrainPlan, TrainResult
from tk.errors import TkError, TkWarning
from tk.files import explained, write_file
from tk_tracking import worker
from tk_tracking.flat import flat
from tk_tracking.options import TrackingOptions

RUN, LOG = "run.json", "worker.log"
SIGNALS = frozenset(one.name for one in signal.Signals)


@dataclass(frozen=True)
class Library:
    """What sends the figures.

    sink: a file with a class `Sink` that imports the library: `start(settings)` begins or goes on with a run and returns
        its "id" and "url", `log(kind, step, figures)`, `finish(state, step, figures)` with "finished", "failed" or "stopped".
    environment: variables of the process, where the library has no other way to be told; None: it has it not.
    mend: what to do where it cannot begin.
    """

    name: str
    sink: Path
    environment: Mapping[str, str | None] = field(default_factory=dict)
    mend: str = ""


class Tracking:
    """Implements tk.contracts.Tracker. Nothing is started, and nothing sent, before the run begins."""

    def __init__(self, options: TrackingOptions, folder: Path, library: Library) -> None:
        self._options, self._folder, self._library = options, folder, library
        self._worker: _Worker | None = None
        self._step = 0

    def start(self, plan: TrainPlan, config: Mapping[str, Any], step: int) -> None:
        """Raises TkError where the library is not there or does not begin."""
        own = asdict(self._options)
        settings = {
            **own,
            "name": own["name"] or self._folder.absolute().parent.name,
            "config": flat(config),
            "plan": {name: getattr(plan, name) for name in COUNTS},
            "output": str(self._folder.absolute().parent),
            "folder": str(self._folder.absolute()),
            "id": self._known().get("id", "") if step else "",
        }
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        started = _Worker(self._options.python or sys.executable, self._library, self._folder / LOG)
        started.tell({"do": "start", **settings})
        answer = started.answer(self._options.start_seconds)
        if "started" not in answer:
            started.end()
            raise TkError(self._told(answer))
        self._worker = started
        write_file(self._folder / RUN, json.dumps({**answer["started"], "project": own["project"]}, indent=1))
        if url := answer["started"].get("url"):
            print(f"{self._library.name}: {url}", file=sys.stderr)

    def log(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None:
        if kind == "train" and step % self._options.every:
            return
        if self._worker is None:
            raise RuntimeError("the tracker is used before start() or after finish()")
        self._step = step
        self._worker.tell({"do": "log", "kind": kind, "step": step, "figures": dict(figures)})
        self._warn()

    def finish(self, result: TrainResult | None) -> None:
        """Close the remote run. What could not be sent is a warning: the run's own log has it."""
        if self._worker is None:
            return
        figures = dict(result.evals) if result else {}
        self._worker.tell({"do": "finish", "state": _state(result), "step": self._step, "figures": figures})
        answer = self._worker.answer(self._options.finish_seconds)
        self._warn()
        self._worker.end()
        self._worker = None
        if "finished" not in answer:
            lost = f"The figures that it lacks are in log.jsonl; what it printed: {self._folder / LOG}."
            warnings.warn(f"{self._told(answer)} {lost}", TkWarning, stacklevel=2)

    def _known(self) -> dict[str, Any]:
        """What an earlier part of the run has begun."""
        path = self._folder / RUN
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return found

    def _warn(self) -> None:
        assert self._worker is not None
        for text in self._worker.losses():
            warnings.warn(f"trackers.{self._library.name}: {text}", TkWarning, stacklevel=3)

    def _told(self, answer: Mapping[str, Any]) -> str:
        problem = (answer.get("failed") or answer.get("ended", "")).rstrip(".")
        mend = f" {self._library.mend}" if self._library.mend else ""
        return f"trackers.{self._library.name}: {problem}.{mend}"


COUNTS = ("rows", "examples", "tokens", "steps", "trainable", "parameters")
"""Of the plan, what is sent."""


def _state(result: TrainResult | None) -> str:
    """How a run ended; one that a signal stopped can be resumed."""
    if result is None:
        return "failed"
    return "stopped" if result.stopped in SIGNALS else "finished"


class _Worker:
    """The process, with a thread that writes to it and one that reads, so that training waits for neither."""

    def __init__(self, python: str, library: Library, log: Path) -> None:
        self._messages: Queue[str | None] = Queue()
        self._answers: Queue[dict[str, Any]] = Queue()
        self._losses: Queue[str] = Queue()
        self._seen: set[str] = set()
        command = [python, str(Path(worker.__file__)), str(library.sink)]
        with explained(log), log.open("ab") as errors:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env={n: v for n, v in {**os.environ, **library.environment}.items() if v is not None},
                    start_new_session=True,  # Ctrl-C ends the run, which then tells it
                )
            except OSError as error:
                raise TkError(f"trackers.{library.name}.python: {python}: {error.strerror}.") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        threading.Thread(target=self._write, args=(self._process.stdin,), daemon=True).start()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def tell(self, message: Mapping[str, Any]) -> None:
        self._messages.put(json.dumps(message, default=str))

    def answer(self, seconds: float) -> dict[str, Any]:
        """To `start` or `finish`; "ended" where there is none."""
        try:
            return self._answers.get(timeout=seconds)
        except Empty:
            return {"ended": f"no answer within {seconds} seconds"}

    def losses(self) -> list[str]:
        """What went wrong since it was last asked, each kind of it once."""
        found = []
        while not self._losses.empty():
            text = self._losses.get()
            if text not in self._seen:
                self._seen.add(text)
                found.append(text)
        return found

    def end(self) -> None:
        """Wait for the end of the process; one that does not end by itself is ended."""
        self._messages.put(None)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _write(self, stdin: IO[str]) -> None:
        try:
            with stdin:
                while (message := self._messages.get()) is not None:
                    stdin.write(message + "\n")
                    stdin.flush()
        except BrokenPipeError:
            pass  # the reader tells that it is gone

    def _read(self, stdout: IO[str]) -> None:
        done = False
        with stdout:
            for line in stdout:
                answer = json.loads(line)
                if "lost" in answer:
                    self._losses.put(f"figures were not sent: {answer['lost']}")
                else:
                    done = "started" not in answer
                    self._answers.put(answer)
        ended = f"its process has ended (exit code {self._process.wait()})"
        self._answers.put({"ended": ended})
        if not done:
            self._losses.put(f"{ended}: no more figures are sent")
