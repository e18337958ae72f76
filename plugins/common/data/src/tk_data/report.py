"""What became of the rows: read, used, skipped and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class SourceReport:
    """One source. `split`: "train", "eval", or "held out" (rows taken out of the training source of that name).

    read: rows. used: rows that gave examples. skipped: reason -> rows. tokens: of all examples.
    weights: each term's normaliser. fingerprint: sha256 of the content. notes: what the data set says of itself.
    """

    name: str
    path: str
    format: str
    split: str
    read: int
    used: int
    skipped: Mapping[str, int]
    examples: int
    tokens: int
    weights: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    notes: Sequence[str] = ()

    @property
    def supervised(self) -> float:
        """The largest normaliser: of token losses, the supervised tokens."""
        return max(self.weights.values(), default=0.0)

    def line(self) -> str:
        """One line for people."""
        where = self.path if self.path == self.name else f"{self.name} ({self.path})"
        dropped = "".join(f", {count} skipped: {reason}" for reason, count in self.skipped.items())
        return (
            f"{where}, {self.split}, {self.format}: {self.used} of {self.read} rows, {self.examples} examples, "
            f"{self.tokens} tokens, {self.supervised:g} supervised{dropped}"
        )


@dataclass(frozen=True)
class DataReport:
    """All sources of a run; sums are over those of a split."""

    sources: tuple[SourceReport, ...] = ()

    def of(self, *splits: str) -> DataReport:
        """The sources of some splits only."""
        return DataReport(tuple(source for source in self.sources if source.split in splits))

    @property
    def read(self) -> int:
        return self._sum(lambda source: source.read)

    @property
    def used(self) -> int:
        return self._sum(lambda source: source.used)

    @property
    def examples(self) -> int:
        return self._sum(lambda source: source.examples)

    @property
    def tokens(self) -> int:
        return self._sum(lambda source: source.tokens)

    @property
    def supervised(self) -> float:
        return sum(source.supervised for source in self.sources)

    @property
    def skipped(self) -> dict[str, int]:
        """Reason -> rows, over the sources."""
        found: dict[str, int] = {}
        for source in self.sources:
            for reason, count in source.skipped.items():
                found[reason] = found.get(reason, 0) + count
        return found

    def as_rows(self) -> list[dict[str, Any]]:
        """The sources, JSON-able, for run.json."""
        return [{**asdict(source), "rows": source.read, "supervised": source.supervised} for source in self.sources]

    def _sum(self, of: Callable[[SourceReport], int]) -> int:
        return sum(of(source) for source in self.sources)
