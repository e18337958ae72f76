"""Do the examples learn, and how long do they take? Each runs as a user runs it; GRPO with three seeds.

python benchmarks/learning.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from common import HERE, TK, Section, environment, table, verdict

ROOT = HERE.parent
READ = 0.9
"""Share of the held-out digits that have to be read."""


@dataclass(frozen=True)
class Example:
    """A run. figure: of the held-out rows, which has to leave the 95% interval of the untrained model (less: downwards)."""

    config: str
    figure: str
    minutes: int
    less: bool = False
    seeds: Sequence[int] = (0,)


EXAMPLES = (
    Example("dpo.yaml", "accuracy", 5),
    Example("topics.yaml", "accuracy", 5),
    Example("answers.yaml", "loss", 5, less=True),
    Example("grpo.yaml", "reward", 15, seeds=(1, 2, 3)),
    Example("digits/train.yaml", "loss", 3, less=True),
)


def learnt(
    example: Example, seed: int, folder: Path, flags: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Held-out figures before and after a run, and its minutes."""
    command = [TK, "train", "-c", f"examples/{example.config}", "--train.seed", str(seed), "--output.dir", str(folder)]
    subprocess.run([*command, *flags], cwd=ROOT, env=environment(), check=True, stdout=sys.stderr)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    evals = [line for line in log if line["kind"] == "eval"]
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return evals[0], evals[-1], run["result"]["seconds"] / 60


def read(folder: Path) -> float:
    """The share of held-out digits that the model of a run reads."""
    to = folder / "answers.jsonl"
    command = [TK, "infer", "--run", str(folder), "--input", "runs/digits-data/test.jsonl", "--to", str(to)]
    subprocess.run([*command, "--rewards", "accuracy"], cwd=ROOT, env=environment(), check=True, stdout=sys.stderr)
    return fmean(json.loads(line)["rewards"]["accuracy"] for line in to.read_text(encoding="utf-8").splitlines())


def run(quick: bool = False) -> Section:
    flags = ["--train.steps", "2"] if quick else []
    rows, all_met = [], True
    subprocess.run(
        [sys.executable, "examples/digits/make.py"], cwd=ROOT, env=environment(), check=True, stdout=sys.stderr
    )
    with tempfile.TemporaryDirectory() as name:
        for number, (example, seed) in enumerate((e, s) for e in EXAMPLES for s in (e.seeds[:1] if quick else e.seeds)):
            folder = Path(name) / str(number)
            first, last, minutes = learnt(example, seed, folder, flags)
            low, high = (first[f"{example.figure}_{end}"] for end in ("low", "high"))
            after = last[example.figure]
            met = (after < low if example.less else after > high) and minutes <= example.minutes
            said = f"{after:.3f}"
            if example.config.startswith("digits"):
                share = read(folder)
                met, said = met and share >= READ, f"{said}; {share:.1%} of the digits are read"
            all_met = all_met and met
            before = f"{first[example.figure]:.3f} [{low:.3f}, {high:.3f}]"
            limit = f"≤ {example.minutes}: {verdict(met)}"
            rows.append(
                (f"`{example.config}`", seed, example.figure, first["rows"], before, said, f"{minutes:.1f}", limit)
            )
    lines = [
        "Each example as a user runs it, with all cores. The figure is of the held-out rows; it has to leave the 95% interval of the "
        f"untrained model within so many minutes (digits: and {READ:.0%} of them have to be read).",
        "",
        *table(("example", "seed", "figure", "rows", "before [95%]", "after", "minutes", "limit"), rows),
    ]
    return Section("The examples learn", lines, all_met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, two steps")
    print(run(parser.parse_args().quick).text())
