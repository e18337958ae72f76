"""The next token of every row, each by its own settings and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

import torch
from torch import Tensor

from tk_tensor.nucleus import truncated
from tk_transformers.rows import Row, Taken
from tk_transformers.told import likeliest

GREEDY = (0.0, 0, 1.0, 0.0)


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Taken]:
    """A token of each row, from float32 logits [B, V].

    A row draws one number from its own generator and reads the token off the cumulated distribution, so that what
    runs beside it has no say. Log-probs are those of the sampled distribution: after temperature, top-k, top-p and min-p (in
    this order, as in transformers); for greedy rows, and where these are asked for, of the model's own. Rows that are
    sampled alike are one computation.
    """
    scores = _shifted(logits, rows)
    alike: dict[tuple[float, int, float, float], list[int]] = {}
    for place, row in enumerate(rows):
        asked = row.sampling
        drawn = (asked.temperature, asked.top_k, asked.top_p, asked.min_p)
        alike.setdefault(drawn if asked.temperature else GREEDY, []).append(place)
    found: dict[int, Taken] = {}
    for (temperature, top_k, top_p, min_p), places in alike.items():
        own = scores[places] if len(alike) > 1 else scores
        if temperature:
            distribution = truncated(own / temperature, top_k, top_p).log_softmax(-1)
            distribution = _likely(distribution, min_p) if min_p else distribution
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


def _shifted(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits [B, V] with what requests add to them, and take from them for what has been said: in vLLM's order."""
    asked = [place for place, row in enumerate(rows) if row.sampling.shifts]
    if not asked:
        return logits
    logits = logits.clone()
    for place in asked:
        row, own, sampling = rows[place], logits[place], rows[place].sampling
        for token, bias in sampling.logit_bias.items():
            own[int(token)] += bias
        if sampling.repetition_penalty != 1:
            _repeated(own, row)
        if sampling.presence_penalty or sampling.frequency_penalty:
            if row.counts is None:
                row.counts = torch.zeros_like(own)
            own -= row.counts * sampling.frequency_penalty + (row.counts > 0) * sampling.presence_penalty
    return logits


def _repeated(own: Tensor, row: Row) -> None:
    """Repetition penalty (arXiv:1909.05858) on the tokens seen so far, prompt included, in place."""
    penalty = row.sampling.repetition_penalty
    if row.seen is None:
        row.seen = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        row.seen[torch.from_numpy(row.prompt).to(own.device)] = True
    own.copy_(torch.where(row.seen, torch.where(own > 0, own / penalty, own * penalty), own))


def _likely(distribution: Tensor, min_p: float) -> Tensor:
    """Log-probs [n, V] of the tokens with a share of the likeliest one's probability (arXiv:2407.01082)."""
    least = distribution.max(-1, keepdim=True).values + log(min_p)
    return distribution.masked_fill(distribution < least, -inf).log_softmax(-1)


def _drawn(distribution: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """[n] tokens of log-probs [n, V]."""
    cumulated = distribution.double().exp().cumsum(-1)
    points = torch.stack([torch.rand((), dtype=torch.float64, generator=generator) for generator in generators])
    points = points.to(cumulated.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, points, right=True)[:, 0].clamp(max=distribution.shape[1] - 1)
