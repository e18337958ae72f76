"""Behaviour of losses: one value a row or pair, finite gradients, and positions without weight count for nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tk.contracts import Loss
from tk.testing.need import need

ROWS, VOCABULARY = 4, 11


def token_batch(loss: Loss) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Statistics that a loss on tokens wants, [N] each, from random float64 logits, and the fields beside them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])
    fields = {
        "rows": rows,
        "targets": torch.randint(VOCABULARY, rows.shape, generator=generator),
        "token_weights": torch.rand(len(rows), dtype=torch.float64, generator=generator) + 0.5,
    }
    roles = dict.fromkeys(stat.role for stat in loss.wants)
    logits = {role: torch.randn(len(rows), VOCABULARY, dtype=torch.float64, generator=generator) for role in roles}
    return {s.key: _statistic(s.name, logits[s.role] / s.temperature, fields) for s in loss.wants}, fields


def check_loss(
    loss: Loss, stats: Mapping[str, Tensor] | None = None, fields: Mapping[str, Tensor] | None = None, rows: int = ROWS
) -> None:
    """One finite value a row and finite gradients; for losses on tokens, sums that padding does not change.

    stats, fields: a batch of `rows` rows for losses that want more than a loss on tokens does.
    """
    if stats is None or fields is None:
        stats, fields = token_batch(loss)
    values, gradients = _run(loss, stats, fields, rows)
    units = rows // 2 if loss.unit == "pair" else rows
    need(values.shape == (units,), f"the loss of {rows} rows has the shape {tuple(values.shape)} and not ({units},)")
    need(bool(values.isfinite().all()), "a value is infinite or NaN")
    for name, gradient in gradients.items():
        need(bool(gradient.isfinite().all()), f"a gradient of {name} is infinite or NaN")
    need(any(bool(g.any()) for g in gradients.values()), "no statistic has a gradient")
    if loss.unit in ("token", "pair") and "token_weights" in fields:
        _check_padding(loss, stats, fields, rows, values, gradients)


def _check_padding(
    loss: Loss,
    stats: Mapping[str, Tensor],
    fields: Mapping[str, Tensor],
    rows: int,
    values: Tensor,
    gradients: Mapping[str, Tensor],
) -> None:
    count = len(fields["token_weights"])
    padded = {name: _repeated(tensor) if len(tensor) == count else tensor for name, tensor in fields.items()}
    padded["token_weights"] = padded["token_weights"].clone()
    padded["token_weights"][count:] = 0
    more = {name: _repeated(tensor) for name, tensor in stats.items()}
    others, other_gradients = _run(loss, more, padded, rows)
    need(torch.allclose(values, others), "positions of weight 0 change the loss")
    for name, gradient in other_gradients.items():
        need(torch.allclose(gradient[:count], gradients[name]), f"positions of weight 0 change gradients of {name}")
        need(not gradient[count:].any(), f"{name} has gradients at positions of weight 0")


def _run(
    loss: Loss, stats: Mapping[str, Tensor], fields: Mapping[str, Tensor], rows: int
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in stats.items()}

    def reduce(values: Tensor) -> Tensor:
        return values.new_zeros(rows).index_add(0, fields["rows"], values)

    values = loss(leaves, fields, reduce)
    values.sum().backward()
    gradients = {n: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for n, leaf in leaves.items()}
    return values.detach(), gradients


def _repeated(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor[-2:]])


def _statistic(name: str, logits: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
    logps = logits.log_softmax(-1)
    known = {
        "logps": lambda: logps.gather(1, fields["targets"][:, None])[:, 0],
        "mean_logps": lambda: logps.mean(-1),
        "entropy": lambda: -(logps.exp() * logps).sum(-1),
        "logsumexp": lambda: logits.logsumexp(-1),
        "logits": lambda: logits,
    }
    need(name in known, f"give check_loss stats and fields: it makes no {name!r} itself")
    return known[name]()
