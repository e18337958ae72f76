"""Tokens a second of LoRA training: `tk train` against bare loops and TRL on the same batches, in turns; and memory.

python benchmarks/throughput.py [--quick] [--small] [--shape short|prompt-heavy]
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import material
from common import TK, WORKERS, Pairs, Section, environment, load, table, verdict

BATCH, WARMUP, LIMIT = 4, 2, 0.97
SUPERVISED, FULL = "bare, supervised positions", "bare, full logits"
SHAPES: Mapping[str, Callable[[Path, int], Path]] = {
    "short": material.short,
    "prompt-heavy": material.prompt_heavy,
}
TOLERANCE = 2e-4
"""Relative difference of the first step's losses; TRL logs its loss in four digits after the point."""


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


def config(checkpoint: Path, rows: Path, folder: Path) -> Path:
    """The run's config, as a user would write it."""
    path = folder / "config.yaml"
    values = {
        "model": str(checkpoint),
        "data": str(rows),
        "tuner": {"name": "lora", "rank": 16},
        "optim": {"lr": 1e-4},
        "train": {"batch_size": BATCH, "micro_batch_size": BATCH},
        "output": {"dir": str(folder / "run"), "overwrite": True},
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def ours_and_peers(checkpoint: Path, rows: Path, batches: Path, folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The command of tk, and those that it is held against."""
    made = str(config(checkpoint, rows, folder))
    subprocess.run([sys.executable, str(WORKERS / "batches.py"), made, str(batches)], env=environment(), check=True)
    loop, peer = str(WORKERS / "bare_loop.py"), str(WORKERS / "trl_loop.py")
    return [TK, "train", "-c", made, "--plugin", str(WORKERS / "gate_plugin.py"), "--callbacks", "gate"], {
        SUPERVISED: [sys.executable, loop, "supervised", str(checkpoint), str(batches)],
        FULL: [sys.executable, loop, "full", str(checkpoint), str(batches)],
        "TRL SFTTrainer": [sys.executable, peer, str(checkpoint), str(batches), str(folder / "trl")],
    }


@dataclass(frozen=True)
class Pair:
    """tk and another program, that ran in turns."""

    ours: Worker
    theirs: Worker

    @property
    def rates(self) -> Pairs:
        return Pairs(self.ours.seconds, self.theirs.seconds).inverse()


def measure(shape: str, *, rounds: int, steps: int, small: bool) -> tuple[dict[str, Pair], list[Any]]:
    """tk in turns with each of the others (two at a time have room in memory), and the batches that they trained on."""
    found: dict[str, Pair] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = material.checkpoint(folder, small)
        rows = SHAPES[shape](folder / "rows.jsonl", BATCH * (WARMUP + rounds * steps))
        ours, peers = ours_and_peers(checkpoint, rows, folder / "batches.json", folder)
        for who, command in peers.items():
            workers: list[Worker] = []
            try:
                for number, each in enumerate((ours, command)):
                    workers.append(start(each, folder / f"output{number}.txt", steps))
                for number in range(rounds):
                    print(f"{shape}, {who}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                    for worker in workers[:: 1 if number % 2 else -1]:
                        time.sleep(0.05)  # the threads of the one before have gone to sleep
                        worker.round()
            finally:
                for worker in workers:
                    worker.end()
            found[who] = Pair(*workers)
        batches = json.loads((folder / "batches.json").read_text(encoding="utf-8"))
    check_same(found)
    return found, batches


def check_same(pairs: Mapping[str, Pair]) -> None:
    """The first step's loss is the same, as the adapters begin at zero: the programs train on the same tokens."""
    first = {who: pair.theirs.last["losses"][0] for who, pair in pairs.items()}
    reference = first["tk"] = pairs[FULL].ours.last["losses"][0]
    if any(abs(loss - reference) > TOLERANCE * reference for loss in first.values()):
        raise SystemExit(f"the programs do not do the same work: their first losses are {first}")


def section(shape: str, *, rounds: int, steps: int, small: bool) -> Section:
    before = load()
    pairs, batches = measure(shape, rounds=rounds, steps=steps, small=small)
    timed = [row for rows in batches[WARMUP:] for row in rows]
    tokens = sum(len(row["input_ids"]) for row in timed)
    trained = sum(label != -100 for row in timed for label in row["labels"])
    lines = [
        f"LoRA of rank 16 on all linear layers of SmolLM2-135M-Instruct{' cut to 10 layers' if small else ''}, fp32, "
        f"batches of {BATCH} rows, {tokens / len(timed):.0f} tokens a row, {trained / len(timed):.0f} of them trained; "
        f"{rounds} rounds of tk in turns with each other program, {steps} steps of each in a round, on the same batches. "
        f"Tokens are those that are not padding. Load before: {before}.",
        "",
    ]
    full = pairs[FULL].rates.of_medians
    rows = [
        ("tk", rate(pairs[SUPERVISED].ours, tokens / rounds), "1", "", f"{full:.2f}", *memory(pairs[SUPERVISED].ours))
    ]
    for who, pair in pairs.items():
        ratio = pair.rates.of_medians
        spread = (f"{ratio:.3f}", pair.rates.spread(), f"{full / ratio:.2f}")
        rows.append((who, rate(pair.theirs, tokens / rounds), *spread, *memory(pair.theirs)))
    head = ("program", "tokens/s", "tk over it (medians)", "of rounds: least / median / greatest")
    lines += table((*head, "full logits = 1", "peak of steps, MiB", "peak of process, MiB"), rows)
    floor = pairs[SUPERVISED].rates.of_medians
    met = floor >= LIMIT
    lines += ["", f"Limit: tk over the bare loop on supervised positions ≥ {LIMIT}: {floor:.3f}, {verdict(met)}."]
    return Section(f"Throughput, {shape} rows", lines, met)


def rate(worker: Worker, tokens: float) -> str:
    """Tokens a second in the middle round."""
    return f"{tokens / median(worker.seconds):.0f}"


def memory(worker: Worker) -> tuple[str, str]:
    """MiB: the peak of the timed steps, and of the whole process."""
    steps = worker.last["memory"]
    return f"{steps / 2**20:.0f}", f"{max(worker.start_memory, steps) / 2**20:.0f}"


PLANS: Mapping[str, tuple[int, int]] = {"short": (15, 6), "prompt-heavy": (9, 2)}
"""Rounds, and steps of each program in a round."""


def run(quick: bool = False, small: bool = False, shapes: Sequence[str] = tuple(SHAPES)) -> list[Section]:
    found = []
    for shape in shapes:
        rounds, steps = (3, 1) if quick else PLANS[shape]
        found.append(section(shape, rounds=rounds, steps=steps, small=small or quick))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds on a model cut to 10 layers")
    parser.add_argument("--small", action="store_true", help="a model cut to 10 layers")
    parser.add_argument("--shape", choices=list(SHAPES), help="only rows of this shape")
    given = parser.parse_args()
    for each in run(given.quick, given.small, [given.shape] if given.shape else tuple(SHAPES)):
        print(each.text(), flush=True)
