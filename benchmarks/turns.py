"""Programs that train a few steps whenever they are told to, timed in turns: two at a time, which have room in memory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from common import WORKERS, Pairs, environment

WARMUP = 2
"""Steps of each program before it is timed."""


@dataclass
class Worker:
    """A program that trains a few steps whenever it is told to."""

    process: subprocess.Popen[bytes]
    words: socket.socket
    output: Path
    seconds: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    start_memory: int = 0

    def listen(self) -> dict[str, Any]:
        line = self.words.makefile("r").readline()
        if not line:
            self.process.wait()
            raise SystemExit(f"{self.process.args!r} failed:\n{self.output.read_text(encoding='utf-8')}")
        found: dict[str, Any] = json.loads(line)
        return found

    def round(self) -> None:
        self.words.sendall(b"go\n")
        self.last = self.listen()
        self.seconds.append(self.last["seconds"])

    def end(self) -> None:
        """Nothing is measured any more; what it still would do is not needed."""
        self.process.kill()
        self.process.wait()
        self.words.close()


def start(command: Sequence[str], output: Path, steps: int) -> Worker:
    """Start a program and wait until it has done its first steps."""
    ours, theirs = socket.socketpair()
    env = environment(
        PYTHONPATH=str(WORKERS), BENCH_GATE=str(theirs.fileno()), BENCH_STEPS=str(steps), BENCH_WARMUP=str(WARMUP)
    )
    with output.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, pass_fds=[theirs.fileno()])
    theirs.close()
    worker = Worker(process, ours, output)
    worker.start_memory = worker.listen()["start"]
    return worker


@dataclass(frozen=True)
class Pair:
    """tk and another program, that ran in turns."""

    ours: Worker
    theirs: Worker

    @property
    def rates(self) -> Pairs:
        return Pairs(self.ours.seconds, self.theirs.seconds).inverse()


def in_turns(
    ours: Sequence[str], peers: Mapping[str, Sequence[str]], folder: Path, *, what: str, rounds: int, steps: int
) -> dict[str, Pair]:
    """Our command in turns with each of the others. folder: where what they print is kept."""
    found: dict[str, Pair] = {}
    for who, command in peers.items():
        workers: list[Worker] = []
        try:
            for number, each in enumerate((ours, command)):
                workers.append(start(each, folder / f"output{number}.txt", steps))
            for number in range(rounds):
                print(f"{what}, {who}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                for worker in workers[:: 1 if number % 2 else -1]:
                    time.sleep(0.05)  # the threads of the one before have gone to sleep
                    worker.round()
        finally:
            for worker in workers:
                worker.end()
        found[who] = Pair(*workers)
    return found


def rate(worker: Worker, amount: float, digits: int = 0) -> str:
    """What is done a second in the middle round, of which `amount` is in a round."""
    return f"{amount / median(worker.seconds):.{digits}f}"


def peak(worker: Worker) -> int:
    """Bytes: the peak of the timed steps."""
    return int(worker.last["memory"])


def memory(worker: Worker) -> tuple[str, str]:
    """MiB: the peak of the timed steps, and of the whole process."""
    steps = peak(worker)
    return f"{steps / 2**20:.0f}", f"{max(worker.start_memory, steps) / 2**20:.0f}"
