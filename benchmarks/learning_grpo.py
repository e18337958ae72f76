"""Does GRPO raise the held-out reward on a small task, with three seeds? Runs examples/grpo.yaml as a user does.

python benchmarks/learning_grpo.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import HERE, TK, Section, environment, table, verdict

SEEDS = (1, 2, 3)
MINUTES = 15
"""In which a run has to be done."""


def learnt(seed: int, folder: Path, flags: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Held-out figures before and after a run, and its minutes."""
    command = [TK, "train", "-c", "examples/grpo.yaml", "--train.seed", str(seed), "--output.dir", str(folder), *flags]
    subprocess.run(command, cwd=HERE.parent, env=environment(), check=True, stdout=sys.stderr)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    evals = [line for line in log if line["kind"] == "eval"]
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return evals[0], evals[-1], run["result"]["seconds"] / 60


def run(quick: bool = False) -> Section:
    seeds, flags = (SEEDS[:1], ["--train.steps", "2", "--eval.hold-out", "8"]) if quick else (SEEDS, [])
    rows, met = [], True
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:
            first, last, minutes = learnt(seed, Path(name) / str(seed), flags)
            risen = last["reward"] > first["reward_high"]
            met = met and risen and minutes <= MINUTES
            interval = f"{first['reward_low']:.3f}, {first['reward_high']:.3f}"
            rows.append(
                (seed, f"{first['reward']:.3f} [{interval}]", f"{last['reward']:.3f}", f"{minutes:.1f}", verdict(risen))
            )
    lines = [
        f"`examples/grpo.yaml` (SmolLM2-135M-Instruct, LoRA; the first sentence of an answer ends within ten words), "
        f"mean reward of greedy answers to {first['rows']} held-out questions. Limit: above the 95% interval of the untrained "
        f"model, within {MINUTES} minutes.",
        "",
        *table(("seed", "before [95%]", "after", "minutes", "limit"), rows),
    ]
    return Section("GRPO learns", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, two steps")
    print(run(parser.parse_args().quick).text())
