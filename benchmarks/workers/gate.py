"""Lets a training loop run a few steps at a time, so that several programs can be timed in turns."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path


class Gate:
    """Speaks with the benchmark over the socket BENCH_GATE. After `warmup` steps it waits for a word; after each `steps`
    more it says how long they took, and waits again."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=int(os.environ["BENCH_GATE"]))
        self._words = self._socket.makefile("r")
        self._steps, self._warmup = int(os.environ["BENCH_STEPS"]), int(os.environ["BENCH_WARMUP"])
        self._done = 0
        self._losses: list[float] = []
        self._begun = 0.0

    def loss(self, value: float) -> None:
        """The loss of a step, to compare the programs by."""
        self._losses.append(value)

    def step(self) -> None:
        """A step was done."""
        self._done += 1
        if self._done == self._warmup:
            self._say({"ready": True, "start": _high_water()})
            _reset_high_water()
        elif self._done > self._warmup and (self._done - self._warmup) % self._steps == 0:
            seconds = time.perf_counter() - self._begun
            self._say({"seconds": seconds, "losses": self._losses, "memory": _high_water()})
        else:
            return
        if not self._words.readline():
            raise SystemExit("the benchmark has ended")
        self._begun = time.perf_counter()

    def _say(self, values: dict[str, object]) -> None:
        self._socket.sendall((json.dumps(values) + "\n").encode())


def _high_water() -> int:
    """Bytes: the most that was resident."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def _reset_high_water() -> None:
    """Count from here on, so that loading the checkpoint does not hide what steps need."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
