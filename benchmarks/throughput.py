"""Tokens a second of LoRA training: `tk train` against bare loops and TRL on the same batches, in turns; and memory.

python benchmarks/throughput.py [--quick] [--small] [--shape short|prompt-heavy]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import material
from common import TK, WORKERS, Section, environment, load, table, verdict
from turns import WARMUP, Pair, in_turns, memory, rate

BATCH, LIMIT = 4, 0.97
SUPERVISED, FULL = "bare, supervised positions", "bare, full logits"
SHAPES: Mapping[str, Callable[[Path, int], Path]] = {
    "short": material.short,
    "prompt-heavy": material.prompt_heavy,
}
TOLERANCE = 2e-4
"""Relative difference of the first step's losses; TRL logs its loss in four digits after the point."""


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


def measure(shape: str, *, rounds: int, steps: int, small: bool) -> tuple[dict[str, Pair], list[Any]]:
    """tk in turns with each of the others, and the batches that they trained on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = material.checkpoint(folder, small)
        rows = SHAPES[shape](folder / "rows.jsonl", BATCH * (WARMUP + rounds * steps))
        ours, peers = ours_and_peers(checkpoint, rows, folder / "batches.json", folder)
        found = in_turns(ours, peers, folder, what=shape, rounds=rounds, steps=steps)
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
