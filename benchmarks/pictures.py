"""Pictures a second from disk to batches: two threads beside the training against one, and what a device waits for.

python benchmarks/pictures.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import HERE, WORKERS, Pairs, Section, environment, load, table, verdict
from PIL import Image

WIDTH, HEIGHT = 1024, 768
BATCH = 8
LIMIT = 1.6
"""How many times the pictures a second of one worker two workers have to do."""
FLAT = 1.1
"""How much more memory may be in use in the last quarter of a run than in the second, at the least of each."""
BUSY = 0.8
"""The simulated device step, in times that one worker needs for a batch."""


def write(folder: Path, count: int) -> None:
    """JPEGs of blurred noise, rows that ask about them, and a random Qwen2-VL whose processor takes them as they are."""
    make = runpy.run_path(str(HERE.parent / "examples" / "digits" / "make.py"))
    make["write_model"](folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["max_position_embeddings"] = 32768
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    noise = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for number in range(count):
            coarse = noise.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(
                folder / "pictures" / f"{number}.jpg", quality=90
            )
            parts = [{"type": "image", "image": f"pictures/{number}.jpg"}, {"type": "text", "text": "What?"}]
            said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Noise."}]
            rows.write(json.dumps({"messages": said}) + "\n")


def config(folder: Path, workers: int) -> Path:
    path = folder / f"workers{workers}.yaml"
    values = {
        "model": {"name": str(folder / "model"), "min_pixels": 3136, "max_pixels": 1003520},
        "data": {"sources": {"pictures": {"path": str(folder / "rows.jsonl")}}, "workers": workers},
        "tuner": {"name": "full"},
        "train": {"batch_size": BATCH, "micro_batch_size": BATCH, "epochs": 1},
        "output": {"dir": str(folder / "run")},
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def read(path: Path, step: float = 0.0) -> dict[str, Any]:
    command = [sys.executable, str(WORKERS / "read_pictures.py"), str(path), str(step)]
    done = subprocess.run(command, env=environment(OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def grown(sizes: Sequence[int]) -> float:
    """How much more was in memory in the last quarter than in the second, at the least: what lies above that are the
    batches that are being made, now more and now fewer, and what is not given back lifts the least too."""
    quarter = len(sizes) // 4
    return min(sizes[-quarter:]) / min(sizes[quarter : 2 * quarter])


def run(quick: bool = False) -> Section:
    count, rounds = (200, 1) if quick else (2000, 3)
    before = load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count)
        size = median(path.stat().st_size for path in (folder / "pictures").iterdir())
        one, two = config(folder, 1), config(folder, 2)
        turns = []
        for number in range(rounds):
            print(f"pictures: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            turns.append((read(one), read(two)) if number % 2 else (read(two), read(one))[::-1])
        step = BUSY * median(a["seconds"] for a, _ in turns) / (count / BATCH)
        busy = {workers: read(path, step) for workers, path in ((1, one), (2, two))}
    assert all(a["rows"] == b["rows"] == count for a, b in turns)
    pairs = Pairs([count / b["seconds"] for _, b in turns], [count / a["seconds"] for a, _ in turns])
    held = [grown(b["memory"]) for _, b in turns]
    flat, ratio = max(held) <= FLAT, pairs.of_medians
    lines = [
        f"{count} JPEGs of {WIDTH}×{HEIGHT} ({size / 1024:.0f} KiB each) to batches of {BATCH} for Qwen2-VL (999 tokens a "
        f"picture); {rounds} rounds in turns, OMP_NUM_THREADS=1, nothing else done with the batches. Load before: {before}.",
        "",
        *table(
            ("data.workers", "pictures/s", "over one (medians)", "of rounds: least / median / greatest", "limit"),
            [
                ("1, in a process measured alone", f"{median(pairs.theirs):.1f}", "1", "", ""),
                (
                    "2",
                    f"{median(pairs.ours):.1f}",
                    f"{ratio:.2f}",
                    pairs.spread(),
                    f"≥ {LIMIT}: {verdict(ratio >= LIMIT)}",
                ),
            ],
        ),
        "",
        f"Memory in the last quarter of a run over the second (the least of each), greatest of the rounds: {max(held):.3f} (limit {FLAT}: "
        f"{verdict(flat)}), {max(turns[-1][1]['memory']) / 2**20:.0f} MiB at most.",
        "",
        f"With a device that is busy {step * 1000:.0f} ms a batch ({BUSY} of what one worker needs for it):",
        "",
        *table(
            ("data.workers", "share of the time that the device waits"),
            [(who, f"{found['waited'] / found['seconds']:.1%}") for who, found in busy.items()],
        ),
    ]
    return Section("Pictures from disk to batches", lines, ratio >= LIMIT and flat)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 pictures, one round")
    print(run(parser.parse_args().quick).text())
