"""From which length on it pays to compute a pair's prompt once: steps of LoRA DPO with the prompt once and twice, in turns.

python benchmarks/shared_prompt.py [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import material
import numpy as np
from common import Pairs, Section, load, table, verdict

from tk.contracts import Layout

PAIRS, ANSWER = 2, 64
RATIOS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 3.5)
"""Tokens of the prompt to those of both answers."""
SLACK = 0.98
"""Where sharing is on, it may cost no more than noise."""


class Steps:
    """Forward and backward of DPO, the adapter switched off for the reference."""

    def __init__(self, checkpoint: Path) -> None:
        import peft
        from transformers import AutoModelForCausalLM

        from tk.contracts import LoadedModel
        from tk_conformance.parity import AdapterOff
        from tk_dpo.method import Dpo
        from tk_dpo.options import DpoOptions
        from tk_preference_losses.sigmoid import Sigmoid
        from tk_tensor.scored import build_scored

        model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
        adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules="all-linear"))
        self.method = Dpo(DpoOptions(), {"sigmoid": (1.0, Sigmoid())})
        loaded = LoadedModel(adapted.train(), None, "")
        self.scored = build_scored({"policy": loaded}, self.method.roles(), AdapterOff())  # type: ignore[arg-type]

    def examples(self, prompt: int) -> Sequence[Any]:
        from tk_conformance.parity import examples_of, of_numbers

        draw = np.random.default_rng(prompt)
        ids = [[draw.integers(100, 40_000, n).tolist() for n in (prompt, ANSWER, ANSWER)] for _ in range(PAIRS)]
        return examples_of(self.method, [of_numbers(*each) for each in ids])

    def seconds(self, examples: Sequence[Any], layout: Layout) -> float:
        from tk_tensor.collate import reduce_for

        batch = self.method.collate([[example] for example in examples], layout)
        begun = time.perf_counter()
        outputs = self.scored(batch.inputs, batch.fields, self.method.passes(batch))
        term = self.method.loss(outputs, batch, reduce_for(batch)).terms["sigmoid"]
        (term.sum / PAIRS).backward()
        taken = time.perf_counter() - begun
        self.scored.zero_grad()
        return taken


def run(quick: bool = False) -> Section:
    rounds, before = (2 if quick else 9), load()
    once, twice = Layout(0, shared_prefix=True, shared_from=0.0), Layout(0)
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(material.checkpoint(Path(name), quick))
        rows, met = [], True
        for ratio in RATIOS:
            print(f"prompt of {ratio} times the answers", file=sys.stderr, flush=True)
            examples = steps.examples(round(ratio * 2 * ANSWER))
            for layout in (once, twice):
                steps.seconds(examples, layout)
            turns = [
                [steps.seconds(examples, layout) for layout in ((once, twice) if n % 2 else (twice, once))]
                for n in range(rounds)
            ]
            pairs = Pairs(
                *zip(*((pair if n % 2 else pair[::-1]) for n, pair in enumerate(turns)), strict=True)
            ).inverse()
            used = ratio >= twice.shared_from
            met = met and (not used or pairs.of_medians >= SLACK)
            limit = f"≥ {SLACK}: {verdict(pairs.of_medians >= SLACK)}" if used else ""
            taken = (f"{median(pairs.theirs):.2f}", f"{median(pairs.ours):.2f}")
            tokens = round(ratio * 2 * ANSWER)
            rows.append((tokens, f"{ratio:g}", *taken, f"{pairs.of_medians:.2f}", pairs.spread(), limit))
    head = ("prompt", "times the answers", "seconds once", "seconds twice", "speed once over twice (medians)")
    lines = [
        f"Forward and backward of LoRA DPO on SmolLM2-135M-Instruct{' cut to 10 layers' if quick else ''}, fp32, {PAIRS} pairs "
        f"with answers of {ANSWER} tokens, the reference by the adapter switched off; {rounds} rounds in turns in one process. "
        f"Shared by default from {twice.shared_from:g} times the answers on. Load before: {before}.",
        "",
        *table((*head, "of rounds: least / median / greatest", "limit"), rows),
    ]
    return Section("A prompt computed once", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds on a model cut to 10 layers")
    print(run(parser.parse_args().quick).text())
