"""Many requests of mixed length: continuous batching against one request at a time, and against plain `generate`, in turns.

python benchmarks/generation.py [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import material
import numpy as np
from common import Pairs, Section, load, table, verdict

REQUESTS, FEW, BATCH = 128, 16, 32
PROMPTS, ANSWERS = (16, 256), (8, 96)
"""Tokens, least and most; lengths are drawn evenly. One at a time the first FEW are answered, which are enough."""
ALONE, PLAIN = 3.0, 1.5
"""Limits of the ratios."""


class Ways:
    """Three ways to answer the same requests: greedy, each answer of a length of its own. `wanted`: (prompt, tokens)."""

    def __init__(self, checkpoint: Path, wanted: Sequence[tuple[list[int], int]]) -> None:
        from tk.contracts import Request, Sampling
        from tk_auto.family import AutoFamily

        self.model = AutoFamily().load(str(checkpoint))
        self.wanted = wanted
        never = (len(self.model.tokenizer) - 1,)  # an answer ends by its length only
        self.requests = [Request(ids, Sampling(max_tokens=count), never) for ids, count in wanted]

    def _engine(self, batch: int) -> Any:
        from tk_transformers.engine import TransformersEngine
        from tk_transformers.options import TransformersOptions

        return TransformersEngine(TransformersOptions(max_batch=batch, prefix_cache=0), model=self.model)

    def together(self) -> list[list[int]]:
        from tk.engines import generate

        return [list(c[0].ids) for c in generate(self._engine(BATCH), self.requests)]

    def alone(self) -> list[list[int]]:
        from tk.engines import generate

        engine = self._engine(1)
        return [list(generate(engine, [request])[0][0].ids) for request in self.requests[:FEW]]

    def plain(self) -> list[list[int]]:
        """transformers' generate over padded batches in order of arrival, each as long as its longest answer."""
        import torch

        found = []
        for start in range(0, len(self.wanted), BATCH):
            part = self.wanted[start : start + BATCH]
            width = max(len(ids) for ids, _ in part)
            ids = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in part])
            mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in part])
            most = max(count for _, count in part)
            made = self.model.module.generate(
                ids, attention_mask=mask, max_new_tokens=most, min_new_tokens=most, do_sample=False, pad_token_id=0
            )
            found += [row[width : width + count].tolist() for row, (_, count) in zip(made, part, strict=True)]
        return found


def requests(count: int) -> list[tuple[list[int], int]]:
    draw = np.random.default_rng(0)
    lengths = zip(draw.integers(*PROMPTS, count).tolist(), draw.integers(*ANSWERS, count).tolist(), strict=True)
    return [(draw.integers(100, 40_000, prompt).tolist(), answer) for prompt, answer in lengths]


def seconds(act: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    begun = time.perf_counter()
    found = act()
    return time.perf_counter() - begun, found


def run(quick: bool = False) -> Section:
    rounds, before = (1 if quick else 3), load()
    with tempfile.TemporaryDirectory() as name:
        ways = Ways(material.checkpoint(Path(name), quick), requests(FEW if quick else REQUESTS))
        names = ("together", "alone", "plain")
        taken: dict[str, list[float]] = {name: [] for name in names}
        answers: dict[str, list[list[int]]] = {}
        ways.requests, kept = ways.requests[:2], ways.requests
        ways.together()  # warm
        ways.requests = kept
        for number in range(rounds):
            for way in names if number % 2 else names[::-1]:
                print(f"round {number + 1} of {rounds}: {way}", file=sys.stderr, flush=True)
                spent, answers[way] = seconds(getattr(ways, way))
                taken[way].append(spent)
    alike = sum(a == b for a, b in zip(answers["together"], answers["alone"], strict=False))
    tokens = {way: sum(map(len, found)) for way, found in answers.items()}
    rates = {way: [tokens[way] / spent for spent in times] for way, times in taken.items()}
    rows = []
    met = True
    for way, limit in (("alone", ALONE), ("plain", PLAIN)):
        pairs = Pairs(rates["together"], rates[way])
        met = met and pairs.of_medians >= limit
        speed = f"{median(rates[way]):.0f}"
        said = {"alone": "one request at a time", "plain": f"`generate`, padded batches of {BATCH}"}[way]
        rows.append(
            (said, speed, f"{pairs.of_medians:.2f}", pairs.spread(), f"≥ {limit}: {verdict(pairs.of_medians >= limit)}")
        )
    lines = [
        f"SmolLM2-135M-Instruct{' cut to 10 layers' if quick else ''}, fp32, greedy: {len(ways.wanted)} requests with prompts of "
        f"{PROMPTS[0]} to {PROMPTS[1]} tokens and answers of {ANSWERS[0]} to {ANSWERS[1]}, {tokens['together']:,} tokens in all, at most {BATCH} on "
        f"their way; {rounds} rounds in turns in one process. Continuous batching: {median(rates['together']):.0f} tokens/s. Its "
        f"answers equal those of one request at a time in {alike} of {FEW} requests. Load before: {before}.",
        "",
        *table(
            ("against", "tokens/s", "speed (medians)", "of rounds: least / median / greatest", "limit"),
            rows,
        ),
    ]
    return Section("Requests of mixed length", lines, met)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 16 requests on a model cut to 10 layers")
    print(run(parser.parse_args().quick).text())
