"""Steps a second of LoRA GRPO: `tk train` against a bare loop and TRL on the same prompts, in turns, with tk's phases.

python benchmarks/grpo.py [--quick] [--small]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import material
from common import TK, WORKERS, Section, load, table, verdict
from turns import WARMUP, in_turns, memory

PROMPTS, GROUP, TOKENS = 2, 4, 48
BARE, TRL = "bare", "TRL GRPOTrainer"
LIMITS = {TRL: 1.5}
"""How many times the speed of a program tk has to have."""
LEAST = 0.9
"""Share of the longest answers' tokens that must be there, so that every program generates as much."""


def config(checkpoint: Path, rows: Path, folder: Path) -> Path:
    """The run's config, as a user would write it."""
    path = folder / "config.yaml"
    values = {
        "model": str(checkpoint),
        "data": {"sources": {"prompts": {"path": str(rows)}}, "shuffle": False},
        "method": "grpo",
        "rewards": "letters",
        "sampling": {"n": GROUP, "temperature": 1.0, "max_tokens": TOKENS},
        "tuner": {"name": "lora", "rank": 16},
        "optim": {"lr": 1e-4},
        "train": {"batch_size": PROMPTS, "micro_batch_size": PROMPTS},
        "output": {"dir": str(folder / "run"), "overwrite": True},
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def run(quick: bool = False, small: bool = False) -> Section:
    rounds, steps = (3, 1) if quick else (9, 1)
    before = load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = material.checkpoint(folder, small or quick)
        count = WARMUP + rounds * steps + 1
        prompts = material.prompts(PROMPTS * count, checkpoint)
        rows, batches = folder / "rows.jsonl", folder / "prompts.json"
        rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
        batches.write_text(json.dumps([prompts[i : i + PROMPTS] for i in range(0, len(prompts), PROMPTS)]))
        given = [str(checkpoint), str(batches), str(TOKENS), str(GROUP)]
        plugins = ["--plugin", str(WORKERS / "gate_plugin.py"), "--plugin", str(WORKERS / "grpo_reward.py")]
        found = in_turns(
            [TK, "train", "-c", str(config(checkpoint, rows, folder)), *plugins, "--callbacks", "gate"],
            {
                BARE: [sys.executable, str(WORKERS / "bare_grpo.py"), *given],
                TRL: [sys.executable, str(WORKERS / "trl_grpo_loop.py"), *given, str(folder / "trl")],
            },
            folder,
            what="rollouts and updates",
            rounds=rounds,
            steps=steps,
        )
        log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    timed = [line for line in log if line["kind"] == "train"][WARMUP:]
    made = median(line["answer_tokens"] for line in timed)
    if made < LEAST * TOKENS:
        raise SystemExit(f"answers end early: {made:.0f} tokens of {TOKENS}, so that programs do not generate as much")
    phases = {name: median(line[name] for line in timed) for name in timed[0] if name.startswith("seconds/")}
    lines = [
        f"LoRA of rank 16 on all linear layers of SmolLM2-135M-Instruct{' cut to 10 layers' if small or quick else ''}, fp32, "
        f"{PROMPTS} prompts of about 200 tokens with {GROUP} answers of {made:.0f} tokens each, temperature 1, one update a "
        f"rollout, no KL; {rounds} rounds of tk in turns with each other program, {steps} step of each in a round, on the same "
        f"prompts. Load before: {before}.",
        "",
    ]
    ours = found[TRL].ours
    rows_ = [("tk", f"{median(ours.seconds) / steps:.2f}", "1", "", *memory(ours), "")]
    met = True
    for who, pair in found.items():
        ratio, limit = pair.rates.of_medians, LIMITS.get(who)
        met = met and (limit is None or ratio >= limit)
        told = "" if limit is None else f"≥ {limit}: {verdict(ratio >= limit)}"
        each = f"{median(pair.theirs.seconds) / steps:.2f}"
        rows_.append((who, each, f"{ratio:.2f}", pair.rates.spread(), *memory(pair.theirs), told))
    head = ("program", "seconds a step", "tk's speed over it (medians)", "of rounds: least / median / greatest")
    lines += table((*head, "peak of steps, MiB", "peak of process, MiB", "limit"), rows_)
    lines += ["", "Where a step of tk spends its seconds (medians):", ""]
    lines += table(("phase", "seconds"), [(n.removeprefix("seconds/"), f"{v:.2f}") for n, v in phases.items()])
    return Section("A step of online RL", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds on a model cut to 10 layers")
    parser.add_argument("--small", action="store_true", help="a model cut to 10 layers")
    given = parser.parse_args()
    print(run(given.quick, given.small).text())
