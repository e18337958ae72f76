"""The next token of every row, each by its own settings and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tk.contracts import Sampling
from tk_tensor.nucleus import truncated


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
        (scores,) = truncated(logits[row : row + 1] / setting.temperature, setting.top_k, setting.top_p)
        distribution = scores.log_softmax(-1)
        tokens[row] = _draw(distribution, generator)
        logps[row] = distribution[tokens[row]]
    return tokens, logps


def _draw(distribution: Tensor, generator: torch.Generator) -> Tensor:
    cumulated = distribution.double().exp().cumsum(-1)
    point = torch.rand((), dtype=torch.float64, generator=generator).to(cumulated.device) * cumulated[-1]
    return torch.searchsorted(cumulated, point, right=True).clamp(max=len(cumulated) - 1)
