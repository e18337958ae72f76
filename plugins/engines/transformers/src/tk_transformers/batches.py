"""Rows that are decoded together: with places of their own where the model allows it, else as one batch to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from tk.errors import TkError
from tk_tensor.branches import Masks
from tk_tensor.collate import all_positions
from tk_tensor.tokens import media_inputs
from tk_transformers.forward import Forward
from tk_transformers.prefixes import LEAST, Prefixes, common
from tk_transformers.rows import Row
from tk_transformers.slots import Reach, SlotCache

TELLING = 512
"""Prompt tokens that are read in one step where log-probs of all are wanted: each takes the memory of a vocabulary."""


class Batch(Protocol):
    """What the engine's loop asks for. rows: in flight."""

    rows: list[Row]
    joins: bool
    """Whether rows may be added while others are on their way."""

    def add(self, rows: Sequence[Row]) -> None: ...

    def advance(self) -> tuple[list[Row], Tensor | None]:
        """Read what is unread; the rows that want a token now, and their logits [n, V]. Raises Unreadable."""
        ...

    def drop(self) -> None:
        """Let go of the rows that have ended."""
        ...


class Unreadable(Exception):
    """A row's media cannot be read: this row fails, and no other."""

    def __init__(self, row: Row, error: TkError) -> None:
        super().__init__(str(error))
        self.row, self.error = row, error


class SlotBatch:
    """Rows with places of their own. The first `_ready` have been read and have a token to go on with.

    budget: prompt tokens that are read in one step, so that the others do not wait long.
    """

    joins = True

    def __init__(self, forward: Forward, masks: Masks, layers: int, prefixes: Prefixes, budget: int) -> None:
        self.rows: list[Row] = []
        self._ready = 0
        self._forward, self._masks, self._prefixes, self._budget = forward, masks, prefixes, budget
        self._cache = SlotCache(layers)

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def advance(self) -> tuple[list[Row], Tensor | None]:
        pieces = self._pieces()
        media = _media_of([row for row, _ in pieces if not row.read], self._forward)
        logits = [self._decode()] if self._ready else []
        if pieces:
            logits += self._read(pieces, media)
            for place in range(self._ready, len(self.rows)):
                if not self.rows[place].read:
                    self._begin(place)  # now: what it goes on from may end with the next token
        return self.rows[: self._ready], torch.cat(logits) if logits else None

    def drop(self) -> None:
        for row in [row for row in self.rows if row.finish]:
            self._leave(row)

    def _leave(self, row: Row) -> None:
        """Rows from the end close the gap."""
        place = self.rows.index(row)
        if self._worth_keeping(row):
            self._prefixes.keep(row.known(row.read), row.request.adapter, self._cache.saved(place, row.read))
        if place < self._ready:
            self._ready -= 1
            self._put(self._ready, place)
            place = self._ready
        self._put(len(self.rows) - 1, place)
        self.rows.pop()

    def _worth_keeping(self, row: Row) -> bool:
        """Whether a talk may go on from here."""
        ended = row.finish in ("stop", "length") and not row.outdated
        return ended and row.sampling.n == 1 and not row.request.media and self._prefixes.wants(row.read)

    def _put(self, source: int, target: int) -> None:
        if source != target:
            if self.rows[source].read:  # else it may have no place yet
                self._cache.copy(source, target, self.rows[source].read)
            self.rows[target] = self.rows[source]

    def _decode(self) -> Tensor:
        """Read the last token of each row that is ready."""
        rows = self.rows[: self._ready]
        ids = np.array([[row.ids[-1]] for row in rows])
        starts = np.array([row.read for row in rows])
        placed = [(at, slice(0, 1), row.position(row.read)) for at, row in enumerate(rows)]
        for row in rows:
            row.read += 1
        return self._run(range(len(rows)), ids, all_positions(ids.shape, placed), starts)

    def _read(self, pieces: Sequence[tuple[Row, int]], media: Mapping[str, Tensor]) -> list[Tensor]:
        """Read pieces of prompts; the logits of the rows that have been read whole, which are ready now."""
        rows, counts = [row for row, _ in pieces], np.array([count for _, count in pieces])
        ids = np.full((len(rows), counts.max()), self._forward.layout.pad_id, dtype=np.int64)
        placed = []
        for at, (row, count) in enumerate(pieces):
            piece = slice(row.read, row.read + count)
            ids[at, :count] = row.prompt[piece]
            placed.append((at, slice(0, count), row.positions[..., piece]))
        places, starts = [self.rows.index(row) for row in rows], np.array([row.read for row in rows])
        ends = torch.from_numpy(counts - 1).to(self._forward.device)
        positions = all_positions(ids.shape, placed)
        if any(row.to_tell for row in rows):
            every = self._run(places, ids, positions, starts, media, self._forward.logits)
            for at, (row, count) in enumerate(pieces):
                row.tell(every[at, :count])
            logits = self._forward.next(every[torch.arange(len(rows), device=ends.device), ends])
        else:
            logits = self._run(places, ids, positions, starts, media, partial(self._forward, ends=ends))
        done = []
        for at, (row, count) in enumerate(pieces):
            row.read += int(count)
            if row.read == len(row.prompt):
                self._make_ready(row)
                done.append(at)
        return [logits[done]] if done else []

    def _make_ready(self, row: Row) -> None:
        place, first = self.rows.index(row), self._ready
        if place != first:
            self._cache.swap(place, first, max(row.read, self.rows[first].read))
            self.rows[place], self.rows[first] = self.rows[first], row
        self._ready += 1

    def _pieces(self) -> list[tuple[Row, int]]:
        """Rows with how much of their prompts to read now: a rectangle within the budget, or the first row's media."""
        found: list[tuple[Row, int]] = []
        budget = self._budget
        for place in range(self._ready, len(self.rows)):
            row = self.rows[place]
            if not row.read and not self._begin(place):
                continue
            left = len(row.prompt) - row.read
            budget = min(budget, TELLING) if row.to_tell else budget
            count = left if row.request.media else min(left, budget)
            longest = max([count, *(other for _, other in found)])
            if found and (len(found) + 1) * longest > budget:
                break
            found.append((row, count))
        return found

    def _begin(self, place: int) -> bool:
        """Give a row what has been read of its beginning; False where a row before it is about to read more of it."""
        row = self.rows[place]
        alike, least = self._alike(place)
        known = {at: min(count, self.rows[at].read) for at, count in alike.items()}
        donor = max(known, key=lambda at: known[at], default=-1)
        kept, saved = (0, ()) if _alone(row) else self._prefixes.longest(row.prompt[:-1], row.request.adapter)
        best = max(known.get(donor, 0), kept)
        coming = max((count for at, count in alike.items() if at >= self._ready), default=0)
        if coming >= least and coming > best:
            return False
        if best >= least:
            self._cache.reserve(len(self.rows), len(row.prompt))
            if kept == best:
                self._cache.restore(place, saved, best)
            else:
                self._cache.copy(donor, place, best)
            row.read = best
        return True

    def _alike(self, place: int) -> tuple[dict[int, int], int]:
        """Rows before one, with the tokens that they begin with alike; and from how many on these are worth a copy."""
        row, others = self.rows[place], self.rows[:place]
        twin = next((at for at, o in enumerate(others) if o.request is row.request and not o.outdated), None)
        if twin is not None:
            return {twin: len(row.prompt) - 1}, 1
        return {at: _alike(row, other) for at, other in enumerate(others)}, LEAST

    def _run(
        self,
        places: Sequence[int],
        ids: np.ndarray,
        positions: np.ndarray,
        starts: np.ndarray,
        media: Mapping[str, Tensor] | None = None,
        forward: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """What `forward` (the model, unless given) makes of new tokens [n, T] of some rows, each beginning at a column of its own."""
        device, length = self._forward.device, ids.shape[1]
        index = torch.tensor(places, device=device)
        joined = all(b == a + 1 for a, b in pairwise(places))  # then no copy is made
        where = slice(places[0], places[-1] + 1) if joined else index
        reach = Reach(where, index, torch.from_numpy(starts).to(device), int(starts.max()) + length)
        self._cache.reserve(len(self.rows), reach.width)
        self._cache.touch(reach)
        moved = (torch.from_numpy(each).to(device) for each in (ids, positions))
        mask = self._masks.of(lambda window: _seen(reach, length, window), self._forward.dtype)
        adapters = [self.rows[place].request.adapter for place in places]
        return (forward or self._forward)(*moved, mask, self._cache, media, adapters=adapters)


def _seen(reach: Reach, length: int, window: int | None) -> Tensor:
    """[n, 1, T, width] booleans: a token sees itself and the columns before it, at most `window` in all."""
    own = reach.columns(length)[:, None, :, None]
    every = torch.arange(reach.width, device=own.device)
    seen = every <= own
    return seen if window is None else seen & (every > own - window)


def _alone(row: Row) -> bool:
    """Whether a row has to read all of its prompt itself: pictures, or tokens whose log-probs are wanted."""
    return bool(row.request.media) or row.to_tell


def _alike(row: Row, other: Row) -> int:
    """Tokens of a row's prompt that another's begins with as well, but for the last, whose logits are wanted."""
    if _alone(row) or other.request.media or other.outdated or row.request.adapter != other.request.adapter:
        return 0
    return common(row.prompt[:-1], other.prompt)


class WholeBatch:
    """Rows that begin together and pass through the model as one batch, for models whose layers keep anything else."""

    joins = False

    def __init__(self, forward: Forward) -> None:
        self.rows: list[Row] = []
        self._forward = forward
        self._cache = DynamicCache(config=forward.config)
        self._mask = torch.zeros(0)

    def add(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def advance(self) -> tuple[list[Row], Tensor | None]:
        return self.rows, self._step() if self._mask.numel() else self._begin()

    def drop(self) -> None:
        left = [place for place, row in enumerate(self.rows) if not row.finish]
        self.rows = [self.rows[place] for place in left]
        if left and self._mask.numel():
            self._select(left)

    def _begin(self) -> Tensor:
        """Read all prompts; a request for several completions once."""
        unique = list({id(row.request): row for row in self.rows}.values())
        media = _media_of(unique, self._forward)
        length = max(len(row.prompt) for row in unique)
        ids = np.full((len(unique), length), self._forward.layout.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        placed = []
        for at, row in enumerate(unique):  # padding on the left, so that all rows end at the same place
            span = slice(length - len(row.prompt), length)
            ids[at, span], mask[at, span] = row.prompt, 1
            placed.append((at, span, row.positions))
        moved = [torch.from_numpy(e).to(self._forward.device) for e in (ids, all_positions(ids.shape, placed), mask)]
        self._mask = moved[2]
        names = [row.request.adapter for row in unique]
        logits = self._forward(*moved, self._cache, media, adapters=names)
        for row in unique:
            self._tell(row)
        place = {id(row.request): at for at, row in enumerate(unique)}
        copies = [place[id(row.request)] for row in self.rows]
        self._select(copies)
        for row in self.rows:
            row.read = len(row.prompt)
        return logits[copies]

    def _tell(self, row: Row) -> None:
        """Log-probs of a prompt where they are wanted: read by itself, since the logits of all would take much memory."""
        if not row.to_tell:
            return
        ids = torch.from_numpy(row.prompt)[None].to(self._forward.device)
        positions = torch.from_numpy(row.positions)[..., None, :].to(self._forward.device)
        cache, names = DynamicCache(config=self._forward.config), [row.request.adapter]
        row.tell(self._forward.logits(ids, positions, torch.ones_like(ids), cache, adapters=names)[0])

    def _step(self) -> Tensor:
        """Read each row's last token."""
        ids = np.array([[row.ids[-1]] for row in self.rows])
        placed = [(at, slice(0, 1), row.position(row.read)) for at, row in enumerate(self.rows)]
        for row in self.rows:
            row.read += 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        moved = [torch.from_numpy(e).to(self._forward.device) for e in (ids, all_positions(ids.shape, placed))]
        mask = self._forward.later_mask(moved[0], self._mask, self._cache)
        return self._forward(*moved, mask, self._cache, adapters=[row.request.adapter for row in self.rows])

    def _select(self, places: Sequence[int]) -> None:
        if list(places) != list(range(len(self._mask))):
            index = torch.tensor(places, dtype=torch.long, device=self._forward.device)
            self._cache.reorder_cache(index)  # of every kind of layer, and to any number of rows
            self._mask = self._mask[index]


def _media_of(rows: Sequence[Row], forward: Forward) -> Mapping[str, Tensor]:
    """The tensors of some rows' pictures and the like. Raises Unreadable for the first row whose media are not."""
    try:
        return media_inputs([medium for row in rows for medium in row.request.media], forward.layout)
    except TkError as error:
        if len(rows) == 1:
            raise Unreadable(rows[0], error) from error
        for row in rows:
            _media_of([row], forward)
        raise
