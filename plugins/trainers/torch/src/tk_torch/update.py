"""One optimizer step: the window's forwards and backwards, so that the gradient is that of the whole objective.

Objective = Σ coef · (sum over window and ranks) / (weight over window and ranks). The weights are summed over the
ranks before the first backward, so that each micro-batch's backward already carries its final factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tk.contracts import Batch, Method, Step, Strategy, World
from tk.errors import TkError
from tk_parallel.processes import exchange
from tk_tensor.collate import reduce_for
from tk_torch.seeds import set_torch_state, torch_state
from tk_torch.window import Outputs, Spans, joined_batch, joined_outputs


@dataclass
class Totals:
    """What a window holds over all ranks, before any forward."""

    weights: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    @classmethod
    def of(cls, window: Sequence[Batch]) -> Totals:
        """Of the batches of one rank."""
        real = [batch for batch in window if not batch.filler]
        return cls(_added(batch.weights for batch in real), sum(batch.tokens for batch in real))


@dataclass
class Sums:
    """Local sums of a step's terms and metrics; tensors stay so, so that nothing waits for the device.

    parts: the sum of each micro-batch, and the origins of its rows.
    """

    terms: dict[str, Tensor] = field(default_factory=dict)
    coefs: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
    weights: dict[str, Tensor | float] = field(default_factory=dict)
    parts: list[tuple[Tensor, Sequence[str]]] = field(default_factory=list)

    def add(self, step: Step, origins: Sequence[str]) -> None:
        self.parts.append((torch.stack([t.sum.detach().double() for t in step.terms.values()]).sum(), origins))
        for name, term in step.terms.items():
            value = term.sum.detach()
            self.terms[name] = self.terms[name] + value if name in self.terms else value
            self.coefs[name] = term.coef
        for name, (value, weight) in step.metrics.items():
            for sums, part in ((self.metrics, value), (self.weights, weight)):
                part = part.detach().sum() if isinstance(part, Tensor) else float(part)
                sums[name] = sums[name] + part if name in sums else part

    def plain(self) -> dict[str, dict[str, float]]:
        """The same as numbers; waits for the device once."""
        kinds: dict[str, Mapping[str, Tensor | float]] = {
            "terms": self.terms,
            "metrics": self.metrics,
            "weights": self.weights,
        }
        tensors = [v.double().reshape(()) for own in kinds.values() for v in own.values() if isinstance(v, Tensor)]
        told = iter(torch.stack(tensors).tolist() if tensors else ())
        found = {
            kind: {name: next(told) if isinstance(value, Tensor) else value for name, value in own.items()}
            for kind, own in kinds.items()
        }
        return {**found, "coefs": self.coefs}

    def broken(self) -> list[str]:
        """Origins of the rows whose sum is not finite."""
        return [origin for value, origins in self.parts if not bool(value.isfinite()) for origin in origins]


class Updater:
    """Runs windows through the wrapped module and steps the optimizer."""

    def __init__(
        self,
        method: Method,
        module: nn.Module,
        strategy: Strategy,
        optimizer: torch.optim.Optimizer,
        world: World,
    ) -> None:
        self._method = method
        self._module = module
        self._strategy = strategy
        self._optimizer = optimizer
        self._world = world

    def totals(self, window: Sequence[Batch]) -> Totals:
        """Weights and tokens of the window over all ranks. Raises TkError where ranks have unequal windows."""
        own = Totals.of(window)
        told = exchange(self._strategy.gather, {"batches": len(window), **asdict(own)})
        counts = [part["batches"] for part in told]
        if min(counts) != max(counts) or not counts[0]:
            raise TkError(f"The ranks have {counts} micro-batches in one window; a source must give each as many.")
        return Totals(_added(part["weights"] for part in told), sum(part["tokens"] for part in told))

    def backward(self, window: Sequence[Batch], totals: Totals) -> Sums:
        """The gradients of a window's objective. Returns this rank's sums."""
        run = self._by_row if self._method.scope == "row" else self._by_window
        return run(window, totals)

    def update(self) -> float:
        """Update the weights by the gradients. Returns their norm (nan: they are not finite, and nothing changes)."""
        return self._strategy.step(self._module, self._optimizer)

    def drop(self) -> float:
        """Forget the gradients. Returns nan."""
        self._strategy.drop(self._module, self._optimizer)
        return math.nan

    def _by_row(self, window: Sequence[Batch], totals: Totals) -> Sums:
        """Each micro-batch adds its own part of the objective."""
        sums = Sums()
        for number, waiting in enumerate(window, 1):
            batch = to_device(waiting, self._world.device)
            with self._strategy.synchronise(self._module, number == len(window)):
                outputs = self._module(batch.inputs, batch.fields, self._method.passes(batch))
                step = self._method.loss(outputs, batch, reduce_for(batch))
                part = objective(step, totals.weights)
                self._strategy.backward(part * 0 if batch.filler else part)
            if not batch.filler:
                sums.add(step, batch.origins)
        return sums

    def _by_window(self, window: Sequence[Batch], totals: Totals) -> Sums:
        """Cached gradients (arXiv:2101.06983): the statistics of the whole window without a graph, the loss on them,
        then each micro-batch again, with the same dropout, against the gradient of its own statistics."""
        device = self._world.device
        states, outputs, kept = [], [], []
        with torch.no_grad():
            for waiting in window:
                states.append(torch_state(device))
                batch = to_device(waiting, device)
                kept.append(replace(batch, inputs={}))
                outputs.append(self._module(batch.inputs, batch.fields, self._method.passes(batch)))
        passes = self._method.passes(window[0])
        leaves, own = joined_outputs(self._strategy.gather, self._world, passes, window, outputs)
        joined = joined_batch(self._strategy.gather, self._world, kept, totals.weights, totals.tokens)
        step = self._method.loss(leaves, joined, reduce_for(joined))
        objective(step, totals.weights).backward()
        for number, waiting in enumerate(window, 1):
            set_torch_state(states[number - 1], device)
            batch = to_device(waiting, device)
            passes = [p for p in self._method.passes(batch) if p.grad]
            with self._strategy.synchronise(self._module, number == len(window)):
                again = self._module(batch.inputs, batch.fields, passes)
                self._strategy.backward(_surrogate(again, leaves, own[number - 1]))
        sums = Sums()
        if self._world.rank == 0:
            sums.add(step, [origin for batch in window for origin in batch.origins])
        return sums


def objective(step: Step, totals: Mapping[str, float]) -> Tensor:
    """Σ coef · sum / total weight; a term without weight counts for nothing but stays in the graph."""
    parts = []
    for name, term in step.terms.items():
        if name not in totals:
            raise TkError(f"The method's loss has a term {name!r}, for which its batches declare no weight.")
        parts.append(term.sum * (term.coef / totals[name] if totals[name] else 0.0))
    if not parts:
        raise TkError("The method's loss has no term.")
    return torch.stack([part.reshape(()) for part in parts]).sum() if len(parts) > 1 else parts[0].reshape(())


def figures(told: Sequence[Mapping[str, Mapping[str, float]]], totals: Mapping[str, float]) -> dict[str, float]:
    """Loss, each term where there are several, and the method's metrics, from the sums of all ranks."""
    terms = _added(part["terms"] for part in told)
    coefs = {name: coef for part in told for name, coef in part["coefs"].items()}
    means = {name: value / totals[name] if totals.get(name) else 0.0 for name, value in terms.items()}
    found = {"loss": math.fsum(coefs[name] * mean for name, mean in means.items())}
    if len(means) > 1:
        found |= means
    sums, weights = _added(part["metrics"] for part in told), _added(part["weights"] for part in told)
    return found | {name: value / weights[name] for name, value in sums.items() if weights[name]}


def to_device(batch: Batch, device: str) -> Batch:
    """The batch with its tensors on the device; itself where they are there already."""
    there = {value.device for value in batch.fields.values() if isinstance(value, Tensor)}
    if there <= {torch.device(device)}:
        return batch

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: moved(each) for name, each in value.items()}
        return value.to(device, non_blocking=device != "cpu") if isinstance(value, Tensor) else value

    return replace(batch, inputs=moved(batch.inputs), fields=moved(batch.fields))


def _surrogate(outputs: Outputs, leaves: Mapping[str, Mapping[str, Tensor]], spans: Spans) -> Tensor:
    """A scalar whose gradient is that of the objective through this micro-batch's statistics."""
    parts = []
    for key, stats in outputs.items():
        for name, value in stats.items():
            gradient, span = leaves[key][name].grad, spans[key, name]
            if gradient is None or span.start == span.stop:
                parts.append(value.sum() * 0)  # a filler, or a statistic that the loss does not read
            else:
                parts.append((value * gradient[span]).sum())
    return torch.stack(parts).sum()


def _added(parts: object) -> dict[str, float]:
    """Sum of mappings of numbers, by name."""
    found: dict[str, list[float]] = {}
    for part in parts:  # type: ignore[attr-defined]
        for name, value in part.items():
            found.setdefault(name, []).append(float(value))
    return {name: math.fsum(values) for name, values in found.items()}
