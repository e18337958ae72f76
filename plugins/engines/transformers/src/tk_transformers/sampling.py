"""The next token of every row, each by its own settings and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tk_tensor.nucleus import truncated
from tk_transformers.rows import Row, Taken
from tk_transformers.told import likeliest


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Taken]:
    """A token of each row, from float32 logits [B, V].

    A row draws one number from its own generator and reads the token off the cumulated distribution, so that what
    runs beside it has no say. Log-probs are those of the sampled distribution: after temperature, top-k and top-p (in
    this order, as in transformers); for greedy rows, and where these are asked for, of the model's own. Rows that are
    sampled alike are one computation.
    """
    scores = _penalised(logits, rows)
    alike: dict[tuple[float, int, float], list[int]] = {}
    for place, row in enumerate(rows):
        asked = row.sampling
        greedy = asked.temperature == 0
        alike.setdefault((0.0, 0, 1.0) if greedy else (asked.temperature, asked.top_k, asked.top_p), []).append(place)
    found: dict[int, Taken] = {}
    for (temperature, top_k, top_p), places in alike.items():
        own = scores[places] if len(alike) > 1 else scores
        if temperature:
            distribution = truncated(own / temperature, top_k, top_p).log_softmax(-1)
            tokens = _drawn(distribution, [rows[place].generator for place in places])
        else:
            distribution, tokens = own.log_softmax(-1), own.argmax(-1)
        found |= _told(places, distribution, tokens, rows)
    if plain := [place for place, row in enumerate(rows) if row.request.model_logps and row.sampling.logprobs]:
        tokens = torch.tensor([found[place].token for place in plain], device=logits.device)
        found |= _told(plain, logits[plain].log_softmax(-1), tokens, rows)
    return [found[place] for place in range(len(rows))]


def _told(places: Sequence[int], distribution: Tensor, tokens: Tensor, rows: Sequence[Row]) -> dict[int, Taken]:
    """Tokens [n] of some rows, as a distribution [n, V] has them."""
    logps = distribution.gather(1, tokens[:, None])[:, 0]
    top = likeliest(distribution, [rows[place].sampling.top_logprobs for place in places])
    told = zip(tokens.tolist(), logps.tolist(), top, strict=True)
    return {place: Taken(*each) for place, each in zip(places, told, strict=True)}


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
