"""Rows -> samples -> the method's examples, in batches, with an account of every row that is not used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tk.contracts import Example, Limit, Method, Template
from tk.errors import DataError, TkError, UsageError
from tk.rows import Reading, RowError, row_error
from tk.sample import Sample
from tk_data.examples import ExampleSet, ExampleSetBuilder
from tk_data.rejects import Rejects
from tk_data.report import SourceReport

BATCH = 512
"""Rows that are encoded together: enough for the tokenizer to use all cores, and little memory."""

TOO_LONG = "too long"


@dataclass(frozen=True)
class Part:
    """What came of one source: the rows (indices) that gave examples, and the account."""

    reading: Reading
    used: Sequence[int]
    report: SourceReport


@dataclass
class _Account:
    """Rows of one source as they are counted."""

    used: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    too_long: list[int] = field(default_factory=list)
    examples: int = 0
    tokens: int = 0
    weights: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Encoder:
    """Encodes sources with one method, template and limit. on_error: "stop" or "skip"."""

    method: Method
    template: Template
    limit: Limit
    on_error: str
    rejects: Rejects
    progress: Callable[[str, int, int], None]

    def encode(self, split: str, parts: Sequence[tuple[Reading, Sequence[int]]]) -> tuple[ExampleSet, list[Part]]:
        """Examples of the given rows of each source, in order.

        Raises DataError at a bad row (on_error "stop"), and where the rows there are give no example.
        """
        builder = ExampleSetBuilder()
        made = [self._source(split, reading, rows, builder) for reading, rows in parts]
        if parts and not len(builder):
            raise self._nothing(split, made)
        return builder.build(), [part for part, _ in made]

    def _source(
        self, split: str, reading: Reading, rows: Sequence[int], builder: ExampleSetBuilder
    ) -> tuple[Part, _Account]:
        account = _Account()
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for index, examples in self._batch(reading, batch, account):
                self._count(index, examples, account)
                builder.extend(examples)
            self.progress(reading.name, start + len(batch), len(rows))
        report = SourceReport(
            name=reading.name,
            path=reading.section.path,
            format=reading.format_name,
            split=split,
            read=len(rows),
            used=len(account.used),
            skipped=dict(account.skipped.most_common()),
            examples=account.examples,
            tokens=account.tokens,
            weights=dict(account.weights),
            fingerprint=reading.rows.fingerprint,
            notes=tuple(getattr(reading.rows, "notes", ())),
        )
        return Part(reading, account.used, report), account

    def _batch(
        self, reading: Reading, rows: Sequence[int], account: _Account
    ) -> Iterator[tuple[int, Sequence[Example]]]:
        """(row, its examples) of the rows that can be encoded."""
        samples: list[tuple[int, Sample]] = []
        for index in rows:
            try:
                samples.append((index, reading.sample(index)))
            except RowError as error:
                self._bad(error, account)
        try:
            encoded = self._encoded([sample for _, sample in samples])
        except (TkError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            yield from self._one_by_one(reading, samples, account)
        else:
            yield from zip((index for index, _ in samples), encoded, strict=True)

    def _one_by_one(
        self, reading: Reading, samples: Sequence[tuple[int, Sample]], account: _Account
    ) -> Iterator[tuple[int, Sequence[Example]]]:
        """A batch again, to find which of its rows cannot be encoded."""
        for index, sample in samples:
            try:
                yield index, self._encoded([sample])[0]
            except (TkError, ValueError) as error:
                if isinstance(error, UsageError):
                    raise
                self._bad(row_error(error, sample.origin, _row(reading, index)), account)

    def _encoded(self, samples: Sequence[Sample], limit: Limit | None = None) -> list[Sequence[Example]]:
        return self.method.encode(samples, self.template, limit or self.limit) if samples else []

    def _bad(self, error: RowError, account: _Account) -> None:
        if self.on_error == "stop":
            raise error
        account.skipped[_general(error.reason)] += 1
        self.rejects.add(error.origin, error.reason, error.row)

    def _count(self, index: int, examples: Sequence[Example], account: _Account) -> None:
        if not examples:
            account.skipped[TOO_LONG] += 1
            account.too_long.append(index)
            return
        account.used.append(index)
        account.examples += len(examples)
        for example in examples:
            account.tokens += example.length
            account.weights.update(example.weights)

    def _nothing(self, split: str, made: Sequence[tuple[Part, _Account]]) -> DataError:
        """Why no row gave an example."""
        paths = ", ".join(part.report.path for part, _ in made)
        what = {"train": "to train on", "eval": "to evaluate on"}.get(split, "that is held out")
        reasons: Counter[str] = Counter()
        for _, account in made:
            reasons.update(account.skipped)
        if set(reasons) == {TOO_LONG}:
            shortest, origin = self._shortest(made)
            if self.limit.max_length is None or shortest <= self.limit.max_length:
                return DataError(
                    f"{paths}: no row {what}: none leaves room for what is generated after it within the model's "
                    f"{self.limit.positions} positions. The shortest has {shortest} tokens ({origin}): lower "
                    "sampling.max_tokens."
                )
            return DataError(
                f"{paths}: no row {what}: every one is longer than max_length {self.limit.max_length}. The shortest has "
                f"{shortest} tokens ({origin}): set data.max_length to that or more, or data.truncation to right or left."
            )
        listed = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(5)) or "there are none"
        return DataError(f"{paths}: no row {what} ({listed}).")

    def _shortest(self, made: Sequence[tuple[Part, _Account]]) -> tuple[int, str]:
        """Tokens and origin of the shortest row, encoded again without a limit."""
        found = (0, "")
        for part, account in made:
            for start in range(0, len(account.too_long), BATCH):
                samples = [part.reading.sample(i) for i in account.too_long[start : start + BATCH]]
                for sample, examples in zip(samples, self._encoded(samples, Limit()), strict=True):
                    length = max((example.length for example in examples), default=0)
                    if length and (not found[0] or length < found[0]):
                        found = (length, sample.origin)
        return found


def _general(reason: str) -> str:
    """A reason without its numbers, so that rows with the same fault are counted together."""
    return re.sub(r"\d+", "N", reason)


def _row(reading: Reading, index: int) -> Any:
    return reading.rows[index].data
