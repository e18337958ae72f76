"""Which tokens may be sampled: top-k, then top-p, as transformers cuts a distribution."""

from __future__ import annotations

import torch
from torch import Tensor

NUCLEUS = 1024
"""Tokens among which top-p is looked for first: sorting a whole vocabulary costs more than the model's head."""


def truncated(scores: Tensor, top_k: int, top_p: float, always: Tensor | None = None) -> Tensor:
    """scores [n, V] with -inf where top-k and top-p leave a token out; the most likely token always stays.

    always: a token of each row that stays too, [n]. Where nothing is left out, the scores themselves.
    """
    if top_p >= 1 and not 0 < top_k < scores.shape[-1]:
        return scores
    out = torch.zeros_like(scores, dtype=torch.bool)
    if 0 < top_k < scores.shape[-1]:
        out |= scores < scores.topk(top_k).values[:, -1:]
    if top_p < 1:
        out |= _beyond(scores.masked_fill(out, -torch.inf), top_p)
    if always is not None:
        out = out.scatter(1, always[:, None], False)
    return scores.masked_fill(out, -torch.inf)


def _beyond(scores: Tensor, top_p: float) -> Tensor:
    """Tokens outside the fewest that hold `top_p` of the probability (arXiv:1904.09751), [n, V]."""
    logps = scores.log_softmax(-1)
    values, order = logps.topk(min(NUCLEUS, scores.shape[-1]))
    if bool((values.exp().sum(-1) < top_p).any()):  # rare: a flat distribution, sorted whole
        values, order = logps.sort(descending=True)
    probabilities = values.exp()
    inside = probabilities.cumsum(-1) - probabilities < top_p
    inside[:, 0] = True
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, order, ~inside)
