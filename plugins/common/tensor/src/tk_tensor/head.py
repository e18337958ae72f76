"""Statistics of the vocabulary at selected positions, computed so that only one chunk of logits is in memory.

Three ways, all with the same numbers: one chunk under plain autograd; several chunks, recomputed in the backward pass;
and, where the projection is frozen (adapters), the derivative taken together with the value (`_FrozenHead`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.checkpoint import checkpoint

from tk.contracts import Stat
from tk_tensor.nucleus import truncated

FROZEN_CHUNK = 256
"""Positions at once where nothing is kept of the logits: on CPUs smaller chunks are faster, they stay in the cache."""


@dataclass(frozen=True)
class Projection:
    """Hidden states [n, H] to logits [n, V]: a linear module, a factor, then a soft cap. Without a module: logits as they are."""

    linear: nn.Module | None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.linear is None:
            return wide(hidden)
        logits = wide(self.linear(hidden))
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def frozen(self) -> bool:
        """Whether it is a plain linear layer whose full weight is here and takes no gradient."""
        linear = self.linear
        if type(linear) is not nn.Linear:
            return False
        parameters = [p for p in (linear.weight, linear.bias) if p is not None]
        plain = not any(is_traceable_wrapper_subclass(p) or p.requires_grad for p in parameters)  # sharded, quantised
        hooked = bool(linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks)
        return plain and not hooked and linear.weight.shape == (linear.out_features, linear.in_features)


def wide(values: Tensor) -> Tensor:
    """At least single precision, in which sums over the vocabulary are taken."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def statistics(
    project: Projection,
    hidden: Tensor,
    targets: Tensor | None,
    wants: Sequence[Stat],
    chunk: int = 1024,
) -> dict[str, Tensor]:
    """Statistics by name, [N] each (`logits` [N, V]), in single precision or more.

    hidden: [N, H] at the positions that predict. targets: [N] token ids, for `logps`.
    chunk: positions whose logits are in memory at once.
    """
    if not wants:
        return {}
    if targets is None:
        targets = hidden.new_zeros(len(hidden), dtype=torch.long)
    names = [w.name for w in wants]
    grad = torch.is_grad_enabled() and hidden.requires_grad
    if grad and project.frozen() and all(w.name in DERIVATIVES for w in wants):
        return dict(
            zip(names, _FrozenHead.apply(hidden, targets, project, tuple(wants), min(chunk, FROZEN_CHUNK)), strict=True)
        )

    def piece(rows: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        return _of_logits(project(rows), ids, wants)

    pieces = [(hidden, targets)]
    if "logits" not in names and project.linear is not None:
        pieces = list(zip(hidden.split(chunk), targets.split(chunk), strict=True))
    recompute = torch.is_grad_enabled() and len(pieces) > 1
    run: Callable[..., Any] = (lambda *a: checkpoint(piece, *a, use_reentrant=False)) if recompute else piece
    found = [run(*p) for p in pieces]
    values = [torch.cat(columns) if len(columns) > 1 else columns[0] for columns in zip(*found, strict=True)]
    return dict(zip(names, values, strict=True))


def _of_logits(logits: Tensor, targets: Tensor, wants: Sequence[Stat]) -> tuple[Tensor, ...]:
    """Each wanted statistic of [n, V] logits; work is shared between those of one distribution."""
    scaled: dict[Distribution, Tensor] = {}
    logps: dict[Distribution, Tensor] = {}
    values = []
    for want in wants:
        of = distribution(want)
        if of not in scaled:
            scaled[of] = _scaled(logits, of, targets)
        if want.name == "logits":
            values.append(scaled[of])
            continue
        if of not in logps:
            logps[of] = torch.log_softmax(scaled[of], -1)
        values.append(STATISTICS[want.name](scaled[of], logps[of], targets))
    return tuple(values)


Distribution = tuple[float, float, int]
"""Temperature, top_p, top_k."""


def distribution(want: Stat) -> Distribution:
    return want.temperature, want.top_p, want.top_k


def _scaled(logits: Tensor, of: Distribution, targets: Tensor) -> Tensor:
    """The logits of a distribution that is sampled from, -inf where it has no token."""
    temperature, top_p, top_k = of
    scaled = logits if temperature == 1.0 else logits / temperature
    return truncated(scaled, top_k, top_p, targets)


def _pick(table: Tensor, targets: Tensor) -> Tensor:
    # A sum over one column and not a view of it: sharding hooks do not survive changes in place to a returned view.
    return table.gather(1, targets[:, None]).sum(1)


LEAST = -1e30
"""A log-prob of what is never sampled, as a number."""

STATISTICS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "logps": lambda logits, logps, targets: _pick(logps, targets),
    "mean_logps": lambda logits, logps, targets: logps.mean(-1),
    "entropy": lambda logits, logps, targets: -(logps.exp() * logps.clamp(min=LEAST)).sum(-1),
    "logsumexp": lambda logits, logps, targets: _pick(logits, targets) - _pick(logps, targets),
    "logits": lambda logits, logps, targets: logits,
}
"""On the vocabulary: logits [n, V] (of the distribution), their log-softmax, targets [n] -> [n]."""


@dataclass(frozen=True)
class _Chunk:
    """What derivatives are made of, for one distribution.

    logits, logps: [n, V], the latter overwritten by its exponential. slope: d logit / d (output of the linear layer),
    a number, or [n, V] under a soft cap. mean: Σ over the vocabulary of p · slope · weight, [n, H].
    """

    weight: Tensor
    targets: Tensor
    slope: Tensor | float
    mean: Tensor

    def at_target(self) -> Tensor:
        rows = self.weight[self.targets]
        return rows * (_pick(self.slope, self.targets)[:, None] if isinstance(self.slope, Tensor) else self.slope)

    def at_all(self) -> Tensor:
        if isinstance(self.slope, Tensor):
            return _times(self.slope / len(self.weight), self.weight)
        return wide(self.weight).mean(0) * self.slope


DERIVATIVES: Mapping[str, Callable[[_Chunk], Tensor]] = {
    "logps": lambda c: c.at_target() - c.mean,
    "mean_logps": lambda c: c.at_all() - c.mean,
    "logsumexp": lambda c: c.mean,
}
"""d statistic / d hidden, [n, H], of those that share one product with the weight."""


def _times(table: Tensor, weight: Tensor) -> Tensor:
    return wide(table.to(weight.dtype) @ weight)


class _FrozenHead(torch.autograd.Function):
    """Statistics under a frozen projection. Each depends on its own position only, so its derivative is one vector [H],
    which is taken while the logits are there; no logits are kept, and none are computed twice."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, targets: Tensor, project: Projection, wants: tuple[Stat, ...], chunk: int
    ) -> tuple[Tensor, ...]:
        values: list[list[Tensor]] = [[] for _ in wants]
        vectors: list[list[Tensor]] = [[] for _ in wants]
        for rows, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            for i, (value, vector) in enumerate(_with_derivatives(project, rows, ids, wants)):
                values[i].append(value)
                vectors[i].append(vector.to(hidden.dtype))
        ctx.save_for_backward(*(torch.cat(v) for v in vectors))
        return tuple(torch.cat(v) for v in values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden = sum(g[:, None].to(v.dtype) * v for g, v in zip(grads, ctx.saved_tensors, strict=True))
        return hidden, None, None, None, None  # type: ignore[return-value]


def _with_derivatives(
    project: Projection, hidden: Tensor, targets: Tensor, wants: Sequence[Stat]
) -> list[tuple[Tensor, Tensor]]:
    """(value [n], derivative [n, H]) of each wanted statistic of one chunk."""
    linear: Any = project.linear
    weight = linear.weight
    logits = wide(F.linear(hidden, weight, linear.bias))
    if project.scale != 1.0:
        logits = logits.mul_(project.scale)
    slope: Tensor | float = project.scale
    if project.cap is not None:
        logits = logits.div_(project.cap).tanh_()
        slope = (1 - logits.square()).mul_(project.scale)
        logits = logits.mul_(project.cap)
    found: dict[Stat, tuple[Tensor, Tensor]] = {}
    for of in dict.fromkeys(distribution(w) for w in wants):
        scaled = _scaled(logits, of, targets)
        logps = torch.log_softmax(scaled, -1)
        same = [w for w in wants if distribution(w) == of]
        values = [STATISTICS[w.name](scaled, logps, targets) for w in same]
        steep = slope / of[0]
        share = logps.exp_()
        if isinstance(steep, Tensor):
            mean = _times(share.mul_(steep), weight)
        else:
            mean = _times(share, weight)
            mean = mean if steep == 1.0 else mean * steep
        parts = _Chunk(weight, targets, steep, mean)
        found.update({w: (v, DERIVATIVES[w.name](parts)) for w, v in zip(same, values, strict=True)})
    return [found[w] for w in wants]
