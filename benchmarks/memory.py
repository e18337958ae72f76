"""The memory that `tk train --dry-run` says a run will take, against what the run takes.

python benchmarks/memory.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import material
from common import TK, Section, environment, load, table, verdict

ROWS, BATCH, LIMIT = 16, 4, 0.15
"""LIMIT: how far an estimate may be from the measured peak, of the part that is not interpreter and libraries, where the heap
has no gaps."""
NO_GAPS = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
"""For glibc's allocator: what is larger is mapped by itself, and given back when it is let go."""
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A run: its model ("smollm2" or "tiny"), its rows, and what its config has besides."""

    name: str
    model: str
    rows: str
    config: Mapping[str, Any]


LORA, FULL = {"tuner": {"name": "lora", "rank": 16}}, {"tuner": {"name": "full"}}
PACKED = {"data": {"packing": True, "max_length": 1024}}
CHECKPOINTED = {"train": {"gradient_checkpointing": True}}
CASES = (
    Case("SFT, LoRA", "smollm2", "prompt-heavy", LORA),
    Case("SFT, LoRA, eager attention", "smollm2", "prompt-heavy", {**LORA, "model": {"attention": "eager"}}),
    Case("SFT, LoRA, packed", "smollm2", "prompt-heavy", {**LORA, **PACKED}),
    Case("SFT, LoRA, gradient checkpointing", "smollm2", "prompt-heavy", {**LORA, **CHECKPOINTED}),
    Case("SFT, full", "smollm2", "prompt-heavy", FULL),
    Case("SFT, full, gradient checkpointing", "smollm2", "prompt-heavy", {**FULL, **CHECKPOINTED}),
    Case("SFT, full, adafactor", "smollm2", "prompt-heavy", {**FULL, "optim": {"name": "adafactor"}}),
    Case("DPO, LoRA", "smollm2", "pairs", {**LORA, "method": "dpo"}),
    Case("DPO, full, a copy as reference", "smollm2", "pairs", {**FULL, "method": "dpo"}),
    Case("SFT, LoRA", "tiny", "prompt-heavy", LORA),
    Case("SFT, full", "tiny", "prompt-heavy", FULL),
)
QUICK = (0, 3, 4, 7)


def tiny(folder: Path) -> Path:
    """A random model of four layers, with SmolLM2's tokenizer."""
    from tk_conformance.tiny import tiny_checkpoint

    return tiny_checkpoint(folder, layers=4, hidden=128, max_position_embeddings=2048)


def written(case: Case, checkpoint: Path, rows: Path, folder: Path) -> Path:
    """The run's config, as a user would write it."""
    own = dict(case.config)
    values = {
        **own,
        "model": {"name": str(checkpoint), **own.get("model", {})},
        "data": {"sources": {"rows": {"path": str(rows)}}, **own.get("data", {})},
        "train": {"batch_size": 2 * BATCH, "micro_batch_size": BATCH, "epochs": 1, **own.get("train", {})},
        "output": {"dir": str(folder / "run"), "overwrite": True},
        "report": {"html": False, "plot": False},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def told(*command: str, **more: str) -> dict[str, Any]:
    """What a command prints as JSON, in a process of its own."""
    done = subprocess.run(command, env=environment(**more), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{\n") :])  # libraries may print before it
    return found


def measured(case: Case, checkpoint: Path, rows: Path, folder: Path) -> tuple[dict[str, Any], int, int]:
    """(the estimate, bytes that the process of the run had at its peak, the same where its heap has no gaps)."""
    config = str(written(case, checkpoint, rows, folder))
    estimate = told(TK, "train", "-c", config, "--dry-run", "--json")["memory"]
    peak = told(TK, "train", "-c", config, "--json")["peak_memory"]
    return estimate, int(peak), int(told(TK, "train", "-c", config, "--json", **NO_GAPS)["peak_memory"])


def run(quick: bool = False) -> Section:
    before = load()
    rows: list[Sequence[object]] = []
    errors = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"smollm2": material.checkpoint(folder, small=True), "tiny": tiny(folder / "tiny")}
        data = {
            "prompt-heavy": material.prompt_heavy(folder / "rows.jsonl", ROWS),
            "pairs": material.pairs(folder / "pairs.jsonl", ROWS, models["smollm2"]),
        }
        for case in [CASES[i] for i in QUICK] if quick else CASES:
            estimate, *peaks = measured(case, models[case.model], data[case.rows], folder)
            parts = [estimate[part] for part in ("weights", "gradients", "optimizer", "activations", "other", "total")]
            own = [(estimate["total"] - estimate["other"]) / (peak - estimate["other"]) - 1 for peak in peaks]
            errors.append(own[1])
            sizes = [f"{size / MIB:.0f}" for size in parts]
            found = [f"{peak / MIB:.0f} ({error:+.1%})" for peak, error in zip(peaks, own, strict=True)]
            rows.append((f"{case.model}: {case.name}", estimate["moment"], *sizes, *found))
            print(rows[-1], file=sys.stderr, flush=True)
    met = max(map(abs, errors)) <= LIMIT
    head = (
        "run",
        "moment",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "other",
        "estimate",
        "peak",
        "without gaps",
    )
    lines = [
        f"`tk train --dry-run --json` against `tk train --json`, each in a process of its own, on the CPU in fp32: {ROWS} rows of "
        f"about 450 tokens (pairs: 512 and 64), {BATCH} rows a forward, two forwards a step. smollm2: SmolLM2-135M-Instruct cut to "
        f"{material.SMALL_LAYERS} layers; tiny: four layers of 128, with its vocabulary. MiB; the peak is the most that the process "
        f"had in memory at once, as it is and with {'='.join(*NO_GAPS.items())}, and behind it how far the estimate is from it, both "
        f"without `other`. Load before: {before}.",
        "",
        *table(head, rows),
        "",
        "The estimate is of what tensors hold. glibc keeps tensors below 32 MiB in a heap that gets gaps, the more the smaller they are; "
        "larger ones, and all of them with that variable, are mapped by themselves.",
        "",
        f"Limit: without `other` and without gaps within {LIMIT:.0%}: {verdict(met)}.",
    ]
    return Section("Memory told before a run", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some of the runs")
    print(run(parser.parse_args().quick).text())
