"""A bare DPO loop on given pairs, the reference by the adapter switched off: bare_dpo.py full|answers CHECKPOINT PAIRS.

full: logits of every position. answers: the vocabulary projection runs on the answers only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bare import lora_model, optimizer_of, step
from gate import Gate
from torch import Tensor
from torch.nn import functional as F

BETA = 0.1


def padded(pairs: list[dict[str, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and answer mask [2 P, T]: chosen and rejected rows of each pair."""
    rows = [(p["prompt_ids"], p[f"{side}_ids"]) for p in pairs for side in ("chosen", "rejected")]
    width = max(len(a) + len(b) for a, b in rows)

    def block(values: list[list[int]]) -> Tensor:
        return torch.tensor([v + [0] * (width - len(v)) for v in values])

    return (
        block([a + b for a, b in rows]),
        block([[1] * len(a + b) for a, b in rows]),
        block([[0] * len(a) + [1] * len(b) for a, b in rows]).bool(),
    )


def sums(model: Any, ids: Tensor, mask: Tensor, answers: Tensor, full: bool) -> Tensor:
    """[2 P] log-probabilities of the answers."""
    targets, kept = ids[:, 1:], answers[:, 1:]
    inner = model.get_base_model()
    if full:
        logps = inner(ids, attention_mask=mask, use_cache=False).logits[:, :-1].log_softmax(-1)
        return (logps.gather(2, targets[..., None])[..., 0] * kept).sum(1)
    states = inner.model(ids, attention_mask=mask, use_cache=False)[0][:, :-1]
    found = -F.cross_entropy(inner.lm_head(states[kept]), targets[kept], reduction="none")
    rows = torch.arange(len(ids))[:, None].expand_as(kept)[kept]
    return found.new_zeros(len(ids)).index_add(0, rows, found)


def loss_of(model: Any, pairs: list[dict[str, list[int]]], full: bool) -> Tensor:
    batch = padded(pairs)
    with torch.no_grad(), model.disable_adapter():
        reference = sums(model, *batch, full)
    ratios = (sums(model, *batch, full) - reference).view(-1, 2)
    return -F.logsigmoid(BETA * (ratios[:, 0] - ratios[:, 1])).mean()


def main(kind: str, checkpoint: str, file: str) -> None:
    model = lora_model(checkpoint)
    optimizer = optimizer_of(model)
    gate = Gate()
    for pairs in json.loads(Path(file).read_text(encoding="utf-8")):
        gate.loss(step(model, optimizer, loss_of(model, pairs, kind == "full")))
        gate.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
