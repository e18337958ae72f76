"""Seconds from the start of the process to the end of the first optimizer step: `tk train` against a bare script.

python benchmarks/first_step.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import material
from common import TK, WORKERS, Pairs, Section, environment, load, table, verdict

ROWS, BATCH, LIMIT = 64, 4, 1.2


def until_first_step(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """(seconds, loss) of a program that writes both to the file BENCH_DONE."""
    done = folder / "done.json"
    done.unlink(missing_ok=True)
    env = environment(BENCH_DONE=str(done))
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        begun = time.monotonic()  # one clock for all processes
        code = subprocess.run(command, env=env, stdout=output, stderr=subprocess.STDOUT).returncode
        output.seek(0)
        if code or not done.exists():
            raise SystemExit(f"{' '.join(command)} failed ({code}):\n{output.read()}")
    found = json.loads(done.read_text(encoding="utf-8"))
    return found["at"] - begun, found["loss"]


def commands(checkpoint: Path, rows: Path, folder: Path) -> tuple[list[str], list[str]]:
    """`tk train` as a user would call it, and the bare script."""
    ours = [
        *(TK, "train", "--model", str(checkpoint), "--data", str(rows), "--data.shuffle", "false"),
        *("--tuner", "lora", "--tuner.rank", "16", "--optim.lr", "1e-4"),
        *("--train.batch-size", str(BATCH), "--train.micro-batch-size", str(BATCH)),
        *("--plugin", str(WORKERS / "first_step_plugin.py"), "--callbacks", "first-step"),
        *("--output", str(folder / "run"), "--output.overwrite"),
    ]
    return ours, [sys.executable, str(WORKERS / "bare_first_step.py"), str(checkpoint), str(rows), str(BATCH)]


def run(quick: bool = False) -> Section:
    rounds = 3 if quick else 9
    before = load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = commands(material.checkpoint(folder), material.short(folder / "rows.jsonl", ROWS), folder)
        _, our_loss = until_first_step(ours, folder)  # fills the caches of files and bytecode
        _, their_loss = until_first_step(theirs, folder)
        if abs(our_loss - their_loss) > 1e-4 * their_loss:
            raise SystemExit(f"the programs do not do the same work: their losses are {our_loss} and {their_loss}")
        taken: dict[str, list[float]] = {"tk": [], "bare": []}
        for number in range(rounds):
            pair = [("tk", ours), ("bare", theirs)]
            for who, command in pair[:: 1 if number % 2 else -1]:
                taken[who].append(until_first_step(command, folder)[0])
    pairs = Pairs(taken["tk"], taken["bare"])
    met = pairs.of_medians <= LIMIT
    seconds = [(who, f"{min(t):.2f} / {median(t):.2f} / {max(t):.2f}") for who, t in taken.items()]
    lines = [
        f"Wall time from the start of the process to the end of the first optimizer step: LoRA of rank 16 on "
        f"SmolLM2-135M-Instruct, {ROWS} rows of JSONL read and tokenised, a batch of {BATCH}; {rounds} pairs in turns, "
        f"the same loss on both sides. Load before: {before}.",
        "",
        *table(("", "seconds: least / median / greatest"), seconds),
        "",
        *table(
            ("ratio of medians", "ratios: least / median / greatest", "limit", ""),
            [(f"{pairs.of_medians:.3f}", pairs.spread(), LIMIT, verdict(met))],
        ),
    ]
    return Section("First optimizer step", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    print(run(parser.parse_args().quick).text())
