"""The next token of every row, each by its own settings and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tk_tensor.nucleus import truncated
from tk_transformers.rows import Row


def choose(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """A token of each row and its log-prob, from float32 logits [B, V].

    A row draws one number from its own generator and reads the token off the cumulated distribution, so that what
    runs beside it has no say. Log-probs are those of the sampled distribution: after temperature, top-k and top-p (in
    this order, as in transformers); for greedy rows, of the model's own. Rows that are sampled alike are one computation.
    """
    logits = _penalised(logits, rows)
    alike: dict[tuple[float, int, float], list[int]] = {}
    for place, row in enumerate(rows):
        asked = row.sampling
        greedy = asked.temperature == 0
        alike.setdefault((0.0, 0, 1.0) if greedy else (asked.temperature, asked.top_k, asked.top_p), []).append(place)
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    logps = torch.empty(len(rows), device=logits.device)
    for (temperature, top_k, top_p), places in alike.items():
        scores = logits[places] if len(alike) > 1 else logits
        if temperature:
            distribution = truncated(scores / temperature, top_k, top_p).log_softmax(-1)
            taken = _drawn(distribution, [rows[place].generator for place in places])
        else:
            distribution, taken = scores.log_softmax(-1), scores.argmax(-1)
        index = torch.tensor(places, device=logits.device)
        tokens[index], logps[index] = taken, distribution.gather(1, taken[:, None])[:, 0]
    return tokens.tolist(), logps.tolist()


def _penalised(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Repetition penalty (arXiv:1909.05858) on the tokens seen so far, prompt included."""
    asked = [place for place, row in enumerate(rows) if row.sampling.repetition_penalty != 1]
    if not asked:
        return logits
    logits = logits.clone()
    for place in asked:
        row = rows[place]
        if row.seen is None:
            row.seen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
            row.seen[torch.from_numpy(row.prompt).to(logits.device)] = True
        own, penalty = logits[place], row.sampling.repetition_penalty
        logits[place] = torch.where(row.seen, torch.where(own > 0, own / penalty, own * penalty), own)
    return logits


def _drawn(distribution: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """[n] tokens of log-probs [n, V]."""
    cumulated = distribution.double().exp().cumsum(-1)
    points = torch.stack([torch.rand((), dtype=torch.float64, generator=generator) for generator in generators])
    points = points.to(cumulated.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, points, right=True)[:, 0].clamp(max=distribution.shape[1] - 1)
