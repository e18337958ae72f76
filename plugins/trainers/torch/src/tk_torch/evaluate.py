"""Evaluation on held-out examples: one record an example, their weighted means, and 95% bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tk.contracts import Batch, Example, Layout, Method, Rows, Session, Step, World
from tk_data.evaluate import eval_batches
from tk_parallel.processes import exchange
from tk_tensor.collate import reduce_for
from tk_tensor.given import OF_SAMPLES, Collate, divided
from tk_torch.assemble import Parts
from tk_torch.compiled import uncompiled
from tk_torch.update import to_device
from tk_torch.window import Gather, Outputs, joined_batch, joined_outputs

Ratios = dict[str, tuple[float, float]]
"""Name -> (sum, weight) of one example."""
WINDOW = 1024
"""With scope "window": so many examples, or a batch more, see each other, however many fit into a forward."""
Told = Callable[[str, int, int], None]
"""Told how far long work is: what, rows done, rows in all."""


@dataclass(frozen=True)
class Record:
    """What was found of an example, or of a batch of them that cannot be split."""

    members: Sequence[int]
    terms: Ratios
    metrics: Ratios


@dataclass
class Evaluation:
    """Figures of each set of examples: loss, each term where there are several, the method's metrics, and rows.

    `<figure>_low` and `<figure>_high` are the 95 % interval of the loss and of each metric.
    """

    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    all: dict[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """For callbacks and results: the figures over all sets, and `set/figure` where there are several."""
        found = {name: value for name, value in self.all.items() if name != "rows"}
        if len(self.sets) > 1:
            for name, figures in self.sets.items():
                found |= {f"{name}/{key}": value for key, value in figures.items() if key != "rows"}
        return found


@dataclass
class Records:
    """What a rank has found, and the terms' coefficients."""

    found: list[Record] = field(default_factory=list)
    coefs: dict[str, float] = field(default_factory=dict)

    def add(self, members: Sequence[int], step: Step, weights: Mapping[str, float]) -> None:
        """One record for all members."""
        terms = {name: (float(term.sum), float(weights.get(name, 0))) for name, term in step.terms.items()}
        metrics = {name: (float(torch.as_tensor(v).sum()), float(weight)) for name, (v, weight) in step.metrics.items()}
        self.found.append(Record(list(members), terms, metrics))
        self.coefs |= {name: term.coef for name, term in step.terms.items()}

    def add_each(self, members: Sequence[int], step: Step, weights: Sequence[Mapping[str, float]]) -> None:
        """A record a member, where the step has a value for each; else one for all. weights: of each."""
        terms = {name: term.each for name, term in step.terms.items()}
        metrics = {name: value for name, (value, _) in step.metrics.items()}
        if not all(_one_each(values, len(members)) for values in (*terms.values(), *metrics.values())):
            self.add(members, step, {name: math.fsum(own.get(name, 0) for own in weights) for name in step.terms})
            return
        for i, (member, own) in enumerate(zip(members, weights, strict=True)):
            own_terms = {name: (float(values[i]), float(own.get(name, 0))) for name, values in terms.items()}
            self.found.append(Record([member], own_terms, {name: (float(v[i]), 1.0) for name, v in metrics.items()}))
        self.coefs |= {name: term.coef for name, term in step.terms.items()}


def evaluate(
    parts: Parts,
    module: nn.Module,
    gather: Gather,
    session: Session,
    *,
    batch_size: int,
    resamples: int,
    told: Told,
) -> Evaluation:
    """Every held-out example once, over all ranks, without dropout. The same result on every rank.

    gather: of the ranks that `session.world` counts.
    """
    world, seed = session.world, session.seed
    records = Records()
    held: list[tuple[Batch, Sequence[int], Outputs]] = []
    done = 0
    module.eval()
    with torch.no_grad(), uncompiled(module):
        for batch, indices in eval_batches(
            parts.data.eval, parts.collate, parts.layout, batch_size, world, parts.loader.workers
        ):
            told("evaluation", done, len(parts.data.eval))
            done = min(done + batch_size * world.size, len(parts.data.eval))
            generated = parts.method.evaluate([parts.data.eval[i] for i in indices], session)
            if generated is not None:
                own = zip(indices, generated, strict=True)
                records.found += [Record([index], {}, {k: (v, w) for k, (v, w) in f.items()}) for index, f in own]
                continue
            moved = to_device(batch, world.device)
            outputs = module(moved.inputs, moved.fields, parts.method.passes(moved))
            if parts.method.scope == "window":
                held.append((replace(moved, inputs={}), indices, outputs))
                if len(held) * batch_size * world.size >= WINDOW:
                    _record_window(records, parts, gather, world, held)
                    held = []
            elif indices:
                _record(records, parts, on_cpu(outputs), batch, indices)
        if held:
            _record_window(records, parts, gather, world, held)
    told("evaluation", done, done)
    parts.training_mode(module)
    every = exchange(gather, asdict(records))
    found = sorted((Record(**record) for part in every for record in part["found"]), key=lambda record: record.members)
    coefs = {name: coef for part in every for name, coef in part["coefs"].items()}
    sets = {
        name: summary([record for record in found if record.members[0] in span], coefs, resamples, seed)
        for name, span in parts.data.eval_spans.items()
    }
    return Evaluation(sets, summary(found, coefs, resamples, seed))


def on_cpu(outputs: Mapping[str, Rows]) -> dict[str, Rows]:
    """Statistics where they are taken apart row by row, which would wait for the device at each."""
    return {key: {name: value.cpu() for name, value in rows.items()} for key, rows in outputs.items()}


def _record(records: Records, parts: Parts, outputs: Mapping[str, Rows], batch: Batch, indices: Sequence[int]) -> None:
    """A record for each example of the batch; one for all of them where they cannot be told apart."""
    method = parts.method
    step = method.loss(outputs, batch, reduce_for(batch))
    singles = [alone(method.collate, parts.data.eval[i], parts.layout) for i in indices]
    steps = split(method, outputs, batch, singles)
    if steps is None or not _agree(step, steps):
        records.add(indices, step, batch.weights)
        return
    for index, single, own in zip(indices, singles, steps, strict=True):
        records.add([index], own, single.weights)


def _record_window(
    records: Records,
    parts: Parts,
    gather: Gather,
    world: World,
    held: Sequence[tuple[Batch, Sequence[int], Outputs]],
) -> None:
    """Records of examples that see each other, over all ranks, on rank 0."""
    window, members, outputs = zip(*held, strict=True)
    told = exchange(gather, {"members": [index for indices in members for index in indices]})
    order = [index for part in told for index in part["members"]]
    weights = [parts.data.eval[index].weights for index in order]
    joined, _ = joined_outputs(gather, world, parts.method.passes(window[0]), window, outputs)
    totals = {name: math.fsum(own[name] for own in weights) for name in weights[0]}
    batch = joined_batch(gather, world, window, totals)
    if world.rank == 0:
        on_host = to_device(batch, "cpu")
        records.add_each(order, parts.method.loss(on_cpu(joined), on_host, reduce_for(on_host)), weights)


def alone(collate: Collate, example: Example, layout: Layout) -> Batch:
    """The batch of one example, for all that it holds besides inputs: its media are not opened."""
    plain = replace(layout, packing=False, media=None, touch=frozenset())
    return collate([[replace(example, media=())]], plain)


def _one_each(values: Any, count: int) -> bool:
    return isinstance(values, Tensor) and values.shape == (count,)


def split(method: Method, outputs: Mapping[str, Rows], batch: Batch, singles: Sequence[Batch]) -> list[Step] | None:
    """The loss of each example from the statistics of a batch of them; None where these do not divide into examples."""
    samples = [single.rows for single in singles]
    if method.scope != "row" or sum(samples) != batch.rows:
        return None
    steps = []
    for own, single in zip(divided(outputs, batch, samples), singles, strict=True):
        positions = {len(value) for stats in own.values() for n, value in stats.items() if n not in OF_SAMPLES}
        if positions - {len(single.fields["rows"])}:
            return None  # one without a trained token has a position alone that it has not in the batch
        steps.append(method.loss(own, single, reduce_for(single)))
    return steps


def summary(records: Sequence[Record], coefs: Mapping[str, float], resamples: int, seed: int) -> dict[str, float]:
    """Weighted means over the records, the 2.5% and 97.5% points of their bootstrap distributions, and how many rows they are of."""
    if not records:
        return {"rows": 0}
    terms, metrics = sorted(coefs), sorted({name for record in records for name in record.metrics})
    nothing = (0.0, 0.0)
    values = np.array(
        [[*(r.terms.get(n, nothing) for n in terms), *(r.metrics.get(n, nothing) for n in metrics)] for r in records],
        dtype=np.float64,
    )
    scale = np.array([coefs[name] for name in terms])

    objective = ["loss"] if terms else []

    def means(rows: np.ndarray) -> np.ndarray:
        """The loss where there is one, then each metric, then each term."""
        totals = rows.sum(0)
        ratios = _ratio(totals[:, 0], totals[:, 1])
        return np.concatenate(
            [[scale @ ratios[: len(terms)]] * len(objective), ratios[len(terms) :], ratios[: len(terms)]]
        )

    drawn = np.random.Generator(np.random.PCG64(seed))
    again = np.stack([means(values[drawn.integers(0, len(values), len(values))]) for _ in range(resamples)])
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    found: dict[str, float] = {}
    for i, (name, mean) in enumerate(zip([*objective, *metrics, *terms], means(values).tolist(), strict=True)):
        if i < len(objective) + len(metrics):
            found |= {name: mean, f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
        elif len(terms) > 1:
            found[name] = mean
    return found | {"rows": sum(len(record.members) for record in records)}


def _ratio(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.divide(sums, weights, out=np.zeros_like(sums), where=weights != 0)


def _agree(step: Step, steps: Sequence[Step]) -> bool:
    """Whether the examples' sums add up to the batch's: else they were told apart wrongly."""
    return all(
        math.isclose(math.fsum(float(s.terms[name].sum) for s in steps), float(term.sum), rel_tol=1e-3, abs_tol=1e-3)
        or not math.isfinite(float(term.sum))
        for name, term in step.terms.items()
    )
