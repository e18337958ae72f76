"""A float64 training loop over dumped micro-batches that knows nothing of tk: the oracle of the trainer's tests.

It holds the graph of the whole optimizer step over all ranks, draws each rank's dropout from a stream of its own, and
has its optimizer written out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification


@dataclass
class Micro:
    """A micro-batch as it was dumped."""

    inputs: dict[str, Tensor]
    fields: dict[str, Tensor]
    weights: dict[str, float]
    rows: int
    filler: bool


def read(folder: Path, world: int) -> list[list[Micro]]:
    """Micro-batches of each rank in order."""
    return [[_read(path) for path in sorted(folder.glob(f"rank{rank}-*"))] for rank in range(world)]


def _read(path: Path) -> Micro:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["about"])
    parts: dict[str, dict[str, Tensor]] = {"inputs": {}, "fields": {}}
    for name, value in tensors.items():
        part, _, key = name.partition(".")
        parts[part][key] = value.double() if value.is_floating_point() else value
    return Micro(parts["inputs"], parts["fields"], about["weights"], about["rows"], about["filler"])


def models(method: str, policy: Path, critic: Path) -> dict[str, torch.nn.Module]:
    """The models of a method in double precision, with dropout; of a shared critic its head, which begins at 0."""
    found: dict[str, Any] = {"policy": AutoModelForCausalLM.from_pretrained(policy)}
    if method == "actor-critic":
        found["critic"] = AutoModelForTokenClassification.from_pretrained(critic)
    if method == "shared-critic":
        found["critic"] = torch.nn.Linear(found["policy"].config.hidden_size, 1)
        for parameter in found["critic"].parameters():
            torch.nn.init.zeros_(parameter)
    return {name: model.double().train() for name, model in found.items()}


def two_terms(nets: Mapping[str, Any], batches: Sequence[Micro], streams: Streams) -> dict[str, Tensor]:
    nll, calm = [], []
    for batch in batches:
        first = streams.run(batch, lambda b=batch: _logits(nets["policy"], b))
        second = streams.run(batch, lambda b=batch: _logits(nets["policy"], b)) / 2
        if batch.filler:
            continue
        weights = batch.fields["token_weights"]
        nll.append(-(_logps(first, batch) * weights).sum())
        plogp = second.softmax(-1) * second.log_softmax(-1)
        calm.append(F.softplus(_by_sample(-plogp.sum(-1) * weights, batch) / 10).sum())
    return {"nll": _total(nll), "calm": 0.3 * _total(calm)}


def in_batch(nets: Mapping[str, Any], batches: Sequence[Micro], streams: Streams) -> dict[str, Tensor]:
    pooled, nll = [], []
    for batch in batches:

        def forward(b: Micro = batch) -> tuple[Tensor, Tensor]:
            hidden = nets["policy"].model(**b.inputs).last_hidden_state
            flat = hidden.flatten(0, 1)
            means = torch.stack([flat[b.fields["segments"].flatten() == r].mean(0) for r in range(b.rows)])
            return F.normalize(means, dim=-1), nets["policy"].lm_head(flat)[b.fields["select"]]

        vectors, logits = streams.run(batch, forward)
        if not batch.filler:
            pooled.append(vectors)
            nll.append(-_by_sample(_logps(logits, batch) * batch.fields["token_weights"], batch))
    pairs = torch.cat(pooled).unflatten(0, (-1, 2))
    scores = pairs[:, 0] @ pairs[:, 1].T / 0.1
    nce = (scores.logsumexp(-1) - scores.diagonal()).sum()
    return {"nce": nce, "nll": 0.5 * torch.tanh(torch.cat(nll) / 50).sum()}


def actor_critic(nets: Mapping[str, Any], batches: Sequence[Micro], streams: Streams) -> dict[str, Tensor]:
    actor, critic = [], []
    for batch in batches:
        logits = streams.run(batch, lambda b=batch: _logits(nets["policy"], b))
        hidden = streams.run(batch, lambda b=batch: nets["critic"].model(**b.inputs).last_hidden_state)
        if batch.filler:
            continue
        values = nets["critic"].score(hidden.flatten(0, 1)[batch.fields["select"]]).squeeze(-1)
        weights = batch.fields["token_weights"]
        error = values - (batch.fields["targets"] % 7).double() / 7
        actor.append((_logps(logits, batch) * weights * error.detach()).sum())
        critic.append(_by_sample(error**2 * weights, batch).sum())
    return {"actor": _total(actor), "critic": 0.5 * _total(critic)}


def shared_critic(nets: Mapping[str, Any], batches: Sequence[Micro], streams: Streams) -> dict[str, Tensor]:
    actor, critic = [], []
    for batch in batches:
        hidden = streams.run(batch, lambda b=batch: nets["policy"].model(**b.inputs).last_hidden_state)
        if batch.filler:
            continue
        states = hidden.flatten(0, 1)[batch.fields["select"]]
        weights = batch.fields["token_weights"]
        error = nets["critic"](states).squeeze(-1) - (batch.fields["targets"] % 7).double() / 7
        actor.append((_logps(nets["policy"].lm_head(states), batch) * weights * error.detach()).sum())
        critic.append(_by_sample(error**2 * weights, batch).sum())
    return {"actor": _total(actor), "critic": 0.5 * _total(critic)}


METHODS: Mapping[str, Callable[..., dict[str, Tensor]]] = {
    "two-terms": two_terms,
    "in-batch": in_batch,
    "actor-critic": actor_critic,
    "shared-critic": shared_critic,
}


class Streams:
    """Dropout of each rank from the stream that its seed begins."""

    def __init__(self, seed: int, world: int) -> None:
        self.states = []
        for rank in range(world):
            mixed = int(np.random.SeedSequence((seed, rank + 1)).generate_state(1, np.uint64)[0])
            self.states.append(torch.Generator().manual_seed(mixed >> 1).get_state())
        self.rank: dict[int, int] = {}

    def run(self, batch: Micro, forward: Callable[[], Any]) -> Any:
        rank = self.rank[id(batch)]
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.states[rank])
            found = forward()
            self.states[rank] = torch.get_rng_state()
        return found


def train(
    method: str, nets: Mapping[str, Any], ranks: list[list[Micro]], steps: int, *, lr: float, seed: int, max_norm: float
) -> tuple[dict[str, Tensor], list[float]]:
    """Weights by role and name after the steps, and the objective of each."""
    streams = Streams(seed, len(ranks))
    streams.rank = {id(batch): rank for rank, batches in enumerate(ranks) for batch in batches}
    scale = {"policy": 1.0, "critic": 2.0}
    named = {f"{role}.{n}": p for role, net in nets.items() for n, p in net.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in named.items()}
    each = len(ranks[0]) // steps
    losses = []
    for step in range(steps):
        batches = [b for rank in ranks for b in rank[step * each : (step + 1) * each]]
        totals: dict[str, float] = {}
        for batch in batches:
            for name, weight in batch.weights.items():
                totals[name] = totals.get(name, 0.0) + weight
        terms = METHODS[method](nets, batches, streams)
        objective = sum(value / totals[name] for name, value in terms.items())
        objective.backward()
        losses.append(objective.item())
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in named.values() if p.grad is not None))
        factor = min(1.0, max_norm / (norm + 1e-6))
        for name, p in named.items():
            if p.grad is not None:
                _adam(p, p.grad * factor, moments[name], step + 1, lr * scale[name.split(".")[0]])
                p.grad = None
    return {name: p.detach() for name, p in named.items()}, losses


@torch.no_grad()
def _adam(p: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int, lr: float) -> None:
    first, second = moments
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    corrected = second.div(1 - 0.999**step).sqrt_().add_(1e-8)
    p.sub_(lr * first / (1 - 0.9**step) / corrected)


def _logits(net: Any, batch: Micro) -> Tensor:
    return net(**batch.inputs).logits.flatten(0, 1)[batch.fields["select"]]


def _logps(logits: Tensor, batch: Micro) -> Tensor:
    return logits.log_softmax(-1).gather(-1, batch.fields["targets"][:, None]).squeeze(-1)


def _by_sample(values: Tensor, batch: Micro) -> Tensor:
    return torch.stack([values[batch.fields["rows"] == r].sum() for r in range(batch.rows)])


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()
