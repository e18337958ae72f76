"""The default source: windows of batches of a set of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tk.contracts import Batch, Example, Layout, Session, Window, World
from tk.errors import DataError, TkError, UsageError
from tk_data.background import made_ahead
from tk_data.examples import ExampleSet
from tk_data.plans import Index, Rows, deal, epoch_order, filler_row, pack, single, window_count

Collate = Callable[[Sequence[Sequence[Example]], Layout], Batch]


class Loader:
    """Windows in an order that depends on seed and epoch only. Implements tk.contracts.Source.

    batch_size: rows (packed ones, with `layout.packing`) of a window over all ranks; an epoch's last may be short.
    micro_batch_size: most rows of a batch.
    epochs: passes over the data, also fractions; `steps`: windows in all, instead.
    max_length: tokens of a packed row.
    workers: threads that make batches.
    """

    def __init__(
        self,
        examples: ExampleSet,
        collate: Collate,
        layout: Layout,
        *,
        batch_size: int,
        micro_batch_size: int,
        world: World,
        seed: int = 0,
        shuffle: bool = True,
        epochs: float = 1.0,
        steps: int | None = None,
        max_length: int | None = None,
        workers: int = 1,
    ) -> None:
        """Raises UsageError where there is no example, or packing has no length to pack to."""
        if not len(examples):
            raise UsageError("data: there is no example to train on.")
        if layout.packing and max_length is None:
            raise UsageError("data.packing needs a length to pack to: set data.max_length.")
        self.examples, self.collate = examples, collate
        self.layout, self.lengths = (
            _packed(examples, layout, max_length or 0) if layout.packing else (layout, examples.lengths)
        )
        self.batch_size, self.micro_batch_size, self.world = batch_size, micro_batch_size, world
        self.seed, self.shuffle, self.epochs, self.steps = seed, shuffle, epochs, steps
        self.max_length, self.workers = max_length, workers
        self._last: tuple[int, Rows] | None = None
        self._counts: dict[int, int] = {}

    # --- the plan ---

    def rows(self, epoch: int) -> Rows:
        """The rows of an epoch in order. The epoch asked for last is kept."""
        last = self._last
        if last is None or last[0] != epoch:
            order = epoch_order(len(self.examples), self.seed, epoch, self.shuffle)
            packed = self.layout.packing and self.max_length is not None
            rows = pack(self.lengths, order, self.max_length or 0) if packed else single(order)
            self._last = last = (epoch, rows)
            self._counts[epoch] = window_count(len(rows), self.batch_size)
        return last[1]

    def window_count(self, epoch: int) -> int:
        """Windows of a whole epoch. Packing makes it differ a little between epochs."""
        if not self.layout.packing:
            return window_count(len(self.examples), self.batch_size)
        if epoch not in self._counts:
            self.rows(epoch)
        return self._counts[epoch]

    def __len__(self) -> int:
        if self.steps is not None:
            return self.steps
        whole = math.floor(self.epochs)
        part = self.epochs - whole
        windows = sum(self.window_count(epoch) for epoch in range(whole))
        if part > 1e-9:
            windows += math.ceil(part * self.window_count(whole) - 1e-9)
        return windows

    @property
    def accumulation(self) -> int:
        """Micro-batches of a full window on each rank."""
        return max(1, math.ceil(self.batch_size / (self.micro_batch_size * self.world.size)))

    def places(
        self, done: int = 0, epoch: int = 0, window: int = 0, *, beyond: bool = False
    ) -> Iterator[tuple[int, int, int]]:
        """(windows done before, epoch, window of the epoch) from the given place to the end of the run, or `beyond` it."""
        total = len(self)
        while beyond or done < total:
            if window >= self.window_count(epoch):
                epoch, window = epoch + 1, 0
                continue
            yield done, epoch, window
            done, window = done + 1, window + 1

    def members(self, epoch: int, window: int) -> list[Sequence[int]]:
        """Examples of each row of a window, over all ranks."""
        rows, first = self.rows(epoch), window * self.batch_size
        return [rows[i].tolist() for i in range(first, min(first + self.batch_size, len(rows)))]

    @property
    def order(self) -> str:
        """Everything that the global order depends on. A resumed run must have the same."""
        packed = f", packed to {self.max_length} tokens" if self.layout.packing else ""
        packed += " with shared beginnings" if packed and self.layout.shared_prefix else ""
        drawn = f"seed {self.seed}" if self.shuffle else "not shuffled"
        return f"{len(self.examples)} examples, {drawn}, batch size {self.batch_size}{packed}"

    # --- the batches ---

    def windows(self, cursor: Mapping[str, Any] | None = None, *, beyond: bool = False) -> Generator[Window]:
        """Windows from the start, or from just after the one whose cursor is given; collated ahead."""
        start = (0, 0, 0)
        if cursor is not None:
            start = (int(cursor["done"]), int(cursor["epoch"]), int(cursor["window"]) + 1)
            if cursor["order"] != self.order:
                raise TkError(
                    f"The run cannot go on, because its order of rows would be another one: it was {cursor['order']}, "
                    f"and is {self.order}. Put data and settings back, or begin anew with --train.start-from."
                )
        planned = (
            (done, epoch, window, self.members(epoch, window))
            for done, epoch, window in self.places(*start, beyond=beyond)
        )
        return made_ahead(self._window, planned, self.workers)

    def window(self, epoch: int, number: int, done: int = 0) -> Window:
        """A window of an epoch. done: windows before it."""
        return self._window((done, epoch, number, self.members(epoch, number)))

    def updated(self, step: int, session: Session) -> None:
        """Nothing: the data does not depend on the model."""

    def _window(self, planned: tuple[int, int, int, list[Sequence[int]]]) -> Window:
        done, epoch, window, members = planned
        lengths = [sum(int(self.lengths[i]) for i in row) for row in members]
        mine = deal(lengths, self.micro_batch_size, self.world.size)[self.world.rank]
        batches = [self._batch([members[i] for i in places]) if places else None for places in mine]
        if None in batches:
            idle = filler(self._batch([members[filler_row(lengths)]]))
            batches = [batch or idle for batch in batches]
        cursor = {"epoch": epoch, "window": window, "done": done + 1, "order": self.order}
        passed = epoch + (window + 1) / self.window_count(epoch)
        return Window([batch for batch in batches if batch], cursor, passed)

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        batch = self.collate([[self.examples[i] for i in row] for row in rows], self.layout)
        return replace(batch, origins=tuple(self.examples.origin(i) for row in rows for i in row))


def _packed(examples: ExampleSet, layout: Layout, max_length: int) -> tuple[Layout, Index]:
    """The layout of packed rows, and the tokens of each example in one.

    Beginnings are shared in every row or in none, as is worth it over all examples, so that a row is laid out as it was
    planned. Raises DataError where an example does not fit into a row.
    """
    lengths, repeated = examples.lengths, examples.repeated
    spared = int(repeated.sum())
    share = layout.shared_prefix and spared > 0 and spared >= layout.shared_from * (int(lengths.sum()) - spared)
    if not share:
        lengths = lengths + repeated
    longest = int(lengths.argmax())
    if lengths[longest] > max_length:
        twice = "" if share or not repeated[longest] else ", its beginning once for each of its sequences"
        raise DataError(
            f"{examples.origin(longest)}: takes {lengths[longest]} tokens of a packed row{twice}, more than "
            f"data.max_length {max_length}. Set data.max_length to that or more, or leave out data.packing."
        )
    return replace(layout, shared_prefix=share, shared_from=0.0), lengths


def filler(batch: Batch) -> Batch:
    """A batch that is run and counts for nothing: its normalisers and tokens are 0."""
    return replace(batch, filler=True, weights=dict.fromkeys(batch.weights, 0.0), tokens=0)
