"""Sources of a config -> example sets for training and evaluation, before any weight is loaded or updated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tk.compose import Plan
from tk.config.sections import DataSection, EvalSection
from tk.contracts import Limit, Method, Template
from tk.errors import DataError, UsageError
from tk.registry import Registry
from tk.rows import open_source
from tk.sample import Message, Sample
from tk_data.encode import Encoder, Part
from tk_data.examples import ExampleSet, spans
from tk_data.plans import shuffled
from tk_data.rejects import Rejects
from tk_data.report import DataReport

Progress = Callable[[str, int, int], None]
"""Told (source, rows done, rows in all) after each batch of rows."""

HELD_OUT = "held_out"
"""Name of the held-out rows among the evaluation sets."""

_HOLD_OUT = 0x686F6C64
"""Keeps the choice of held-out rows apart from the orders of epochs, which are drawn from the same seed."""


@dataclass(frozen=True)
class EvalPrompt:
    """A held-out conversation cut before the assistant's last turn. sample: the prompt; reference: that turn."""

    sample: Sample
    reference: Message


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    train, eval: examples; eval is all evaluation sources and the held-out rows, in that order.
    eval_spans: name -> range of `eval`, to report each source by itself.
    rejects: bad rows that were left out (`data.on_error: skip`). columns: what rewards may read of the rows.
    """

    train: ExampleSet
    eval: ExampleSet
    eval_spans: Mapping[str, range]
    report: DataReport
    limit: Limit
    rejects: Rejects
    eval_parts: Sequence[Part] = ()
    columns: frozenset[str] = frozenset()

    def eval_rows(self) -> Iterator[Sample]:
        """The held-out rows that gave examples, in order, read again from their source."""
        return (part.reading.sample(i) for part in self.eval_parts for i in part.used)

    def eval_prompts(self, n: int) -> list[EvalPrompt]:
        """The first n held-out conversations that have an assistant's turn."""
        found: list[EvalPrompt] = []
        for sample in self.eval_rows():
            if len(found) >= n:
                break
            last = max((i for i, m in enumerate(sample.messages) if m.role == "assistant"), default=0)
            if last:
                prompt = replace(sample, messages=sample.messages[:last])
                found.append(EvalPrompt(prompt, sample.messages[last]))
        return found


def prepare(
    plan: Plan,
    template: Template,
    method: Method,
    *,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The data of a plan, as `prepare_data`."""
    config = plan.config
    return prepare_data(
        plan.registry,
        config.data,
        config.eval,
        template,
        method,
        seed=config.train.seed,
        max_length=max_length,
        progress=progress,
    )


def prepare_data(
    registry: Registry,
    data: DataSection,
    evaluation: EvalSection,
    template: Template,
    method: Method,
    *,
    seed: int = 0,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Read, understand and encode every source.

    max_length: positions of the model, the limit where the config names none. Deterministic: every process of a run
    prepares the same.

    Raises DataError at the first bad row with `on_error: stop`, and where nothing is left to train on or to evaluate.
    """
    if not data.sources:
        raise UsageError("data.sources: no data is named: --data FILE.")
    if evaluation.hold_out and HELD_OUT in evaluation.sources:
        raise UsageError(f"eval.sources.{HELD_OUT}: this is the name of the rows that hold_out takes: use another.")
    limit = Limit(data.max_length if data.max_length is not None else max_length, data.truncation, max_length)
    training = [open_source(registry, name, section) for name, section in data.sources.items()]
    evaluating = [open_source(registry, name, section) for name, section in evaluation.sources.items()]
    held = held_out([len(reading) for reading in training], evaluation.hold_out, seed)
    rejects = Rejects()
    encoder = Encoder(method, template, limit, data.on_error, rejects, progress or (lambda *_: None))
    kept = [_others(len(reading), taken) for reading, taken in zip(training, held, strict=True)]
    train, trained = encoder.encode("train", list(zip(training, kept, strict=True)))
    parts = [(reading, range(len(reading))) for reading in evaluating]
    eval_set, evaluated = encoder.encode("eval", parts)
    taken_out = [(reading, taken) for reading, taken in zip(training, held, strict=True) if len(taken)]
    held_set, held_parts = encoder.encode("held out", taken_out)
    both = [*evaluated, *held_parts]
    report = DataReport(tuple(part.report for part in [*trained, *both]))
    joined = ExampleSet(chain(eval_set, held_set)) if len(held_set) and len(eval_set) else held_set or eval_set
    columns = frozenset(name for reading in (*training, *evaluating) for name in reading.columns)
    return Prepared(train, joined, _spans(both), report, limit, rejects, both, columns)


def held_out(counts: Sequence[int], wish: float, seed: int) -> list[list[int]]:
    """Rows of each training source that are not trained on, in the order in which they were drawn."""
    total = sum(counts)
    if wish >= 1 and wish != int(wish):
        raise UsageError(f"eval.hold_out: {wish:g} is neither a number of rows nor a fraction below 1.")
    wanted = int(wish) if wish >= 1 else max(1, round(wish * total)) if wish else 0
    if wanted >= total:
        raise DataError(
            f"eval.hold_out takes {wanted} rows, and the training data has {total}: nothing is left to train on."
        )
    held: list[list[int]] = [[] for _ in counts]
    ranges = list(spans({str(i): count for i, count in enumerate(counts)}).values())
    for place in shuffled(total, seed, _HOLD_OUT)[:wanted].tolist():
        source = next(i for i, within in enumerate(ranges) if place in within)
        held[source].append(place - ranges[source].start)
    return held


def _others(count: int, taken: Sequence[int]) -> Sequence[int]:
    out = set(taken)
    return [i for i in range(count) if i not in out] if out else range(count)


def _spans(parts: Sequence[Part]) -> dict[str, range]:
    counts: dict[str, int] = {}
    for part in parts:
        name = part.report.name if part.report.split == "eval" else HELD_OUT
        counts[name] = counts.get(name, 0) + part.report.examples
    return spans(counts)
