"""The next token of every row, each by its own settings and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tk.contracts import Sampling

NUCLEUS = 1024
"""Tokens among which top-p is looked for first: sorting a whole vocabulary costs more than the model's head."""


def penalise(logits: Tensor, seen: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Repetition penalty (arXiv:1909.05858) on the tokens seen so far, prompt included. logits, seen: [B, V]."""
    penalty = torch.tensor([s.repetition_penalty for s in settings], device=logits.device)[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def choose(
    logits: Tensor, settings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probs [B], from float32 logits [B, V].

    A row draws one number from its own generator and reads the token off the cumulated distribution, so that what
    runs beside it has no say. Log-probs are those of the sampled distribution: after temperature, top-k and top-p (in
    this order, as in transformers); for greedy rows, of the model's own.
    """
    tokens = logits.argmax(-1)
    logps = torch.empty(len(logits), device=logits.device)
    for row, (setting, generator) in enumerate(zip(settings, generators, strict=True)):
        if setting.temperature == 0:
            logps[row] = logits[row].log_softmax(-1)[tokens[row]]
            continue
        distribution = truncated(logits[row] / setting.temperature, setting).log_softmax(-1)
        tokens[row] = _draw(distribution, generator)
        logps[row] = distribution[tokens[row]]
    return tokens, logps


def truncated(scores: Tensor, setting: Sampling) -> Tensor:
    """scores [V] with -inf where top-k and top-p leave a token out; the most likely token always stays."""
    if setting.top_k > 0 and setting.top_k < len(scores):
        least = scores.topk(setting.top_k).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if setting.top_p < 1:
        scores = _nucleus(scores, setting.top_p)
    return scores


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """scores [V] with -inf outside the fewest tokens that hold `top_p` of the probability (arXiv:1904.09751)."""
    logps = scores.log_softmax(-1)
    values, order = logps.topk(min(NUCLEUS, len(scores)))
    if values.exp().sum() < top_p:  # rare: a flat distribution, sorted whole
        values, order = logps.sort(descending=True)
    probabilities = values.exp()
    inside = probabilities.cumsum(-1) - probabilities < top_p
    inside[0] = True
    kept = torch.full_like(scores, -torch.inf)
    kept[order[inside]] = scores[order[inside]]
    return kept


def _draw(distribution: Tensor, generator: torch.Generator) -> Tensor:
    cumulated = distribution.double().exp().cumsum(-1)
    point = torch.rand((), dtype=torch.float64, generator=generator).to(cumulated.device) * cumulated[-1]
    return torch.searchsorted(cumulated, point, right=True).clamp(max=len(cumulated) - 1)
