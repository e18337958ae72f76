"""Pairs a second of LoRA DPO with long prompts: `tk train` against bare loops and TRL on the same pairs, in turns.

python benchmarks/dpo.py [--quick] [--small]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import material
from common import TK, WORKERS, Section, environment, load, table, verdict
from turns import WARMUP, Pair, in_turns, memory, peak, rate

BATCH = 2
ANSWERS, FULL, TRL = "bare, logits of the answers", "bare, full logits", "TRL DPOTrainer"
TOLERANCE = 2e-2
"""Relative difference of the first three losses: Adam's first steps have the size of the rate whatever the gradient's, so
that the last bits of small gradients count. Other pairs differ by more."""
LIMITS = {TRL: 2.5, ANSWERS: 1.6}
"""How many times the pairs a second of a program tk has to do."""


def config(checkpoint: Path, rows: Path, folder: Path) -> Path:
    """The run's config, as a user would write it."""
    path = folder / "config.yaml"
    values = {
        "model": str(checkpoint),
        "data": str(rows),
        "method": "dpo",
        "tuner": {"name": "lora", "rank": 16},
        "optim": {"lr": 1e-4},
        "train": {"batch_size": BATCH, "micro_batch_size": BATCH},
        "output": {"dir": str(folder / "run"), "overwrite": True},
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def check_same(found: Mapping[str, Pair]) -> None:
    """The losses of the first steps are the same: the programs train on the same pairs, and as much."""
    reference = found[FULL].theirs.last["losses"][:3]
    told = {who: pair.theirs.last["losses"][:3] for who, pair in found.items()}
    for who, losses in {**told, "tk": found[FULL].ours.last["losses"][:3]}.items():
        if any(abs(a - b) > TOLERANCE * b for a, b in zip(losses, reference, strict=True)):
            raise SystemExit(
                f"{who} does not do the same work: its losses are {losses}, and those of a bare loop {reference}"
            )


def run(quick: bool = False, small: bool = False) -> Section:
    rounds, steps = (3, 1) if quick else (9, 2)
    before = load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = material.checkpoint(folder, small or quick)
        rows = material.pairs(folder / "rows.jsonl", BATCH * (WARMUP + rounds * steps), checkpoint)
        made, pairs = str(config(checkpoint, rows, folder)), folder / "pairs.json"
        subprocess.run([sys.executable, str(WORKERS / "pairs.py"), made, str(pairs)], env=environment(), check=True)
        bare, peer = str(WORKERS / "bare_dpo.py"), str(WORKERS / "trl_dpo_loop.py")
        found = in_turns(
            [TK, "train", "-c", made, "--plugin", str(WORKERS / "gate_plugin.py"), "--callbacks", "gate"],
            {
                ANSWERS: [sys.executable, bare, "answers", str(checkpoint), str(pairs)],
                FULL: [sys.executable, bare, "full", str(checkpoint), str(pairs)],
                TRL: [sys.executable, peer, str(checkpoint), str(pairs), str(folder / "trl")],
            },
            folder,
            what="pairs",
            rounds=rounds,
            steps=steps,
        )
        tokens = [
            [len(pair[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")]
            for pairs in json.loads(pairs.read_text())
            for pair in pairs
        ]
    check_same(found)
    sizes = [sum(column) / len(column) for column in zip(*tokens, strict=True)]
    lines = [
        f"LoRA of rank 16 on all linear layers of SmolLM2-135M-Instruct{' cut to 10 layers' if small or quick else ''}, fp32, "
        f"batches of {BATCH} pairs, a prompt of {sizes[0]:.0f} tokens with answers of {sizes[1]:.0f} and {sizes[2]:.0f}, the "
        f"reference by the adapter switched off; {rounds} rounds of tk in turns with each other program, {steps} steps of "
        f"each in a round, on the same pairs. Load before: {before}.",
        "",
    ]
    full = found[FULL].rates.of_medians
    amount = float(BATCH * steps)
    ours = found[ANSWERS].ours
    rows_ = [("tk", rate(ours, amount, 2), "1", "", f"{full:.2f}", *memory(ours), "")]
    met = all(peak(ours) < peak(pair.theirs) for pair in found.values())
    for who, pair in found.items():
        ratio = pair.rates.of_medians
        limit = LIMITS.get(who)
        met = met and (limit is None or ratio >= limit)
        verdict_ = "" if limit is None else f"≥ {limit}: {verdict(ratio >= limit)}"
        rows_.append(
            (
                who,
                rate(pair.theirs, amount, 2),
                f"{ratio:.2f}",
                pair.rates.spread(),
                f"{full / ratio:.2f}",
                *memory(pair.theirs),
                verdict_,
            )
        )
    head = ("program", "pairs/s", "tk over it (medians)", "of rounds: least / median / greatest")
    lines += table((*head, "full logits = 1", "peak of steps, MiB", "peak of process, MiB", "limit"), rows_)
    lines += [
        "",
        f"Limit: the peak of tk's steps is the least: {verdict(all(peak(ours) < peak(p.theirs) for p in found.values()))}.",
    ]
    return Section("Preference pairs with long prompts", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds on a model cut to 10 layers")
    parser.add_argument("--small", action="store_true", help="a model cut to 10 layers")
    given = parser.parse_args()
    print(run(given.quick, given.small).text())
