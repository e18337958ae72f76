"""The prompts of a run in their order: whole windows for its steps, and single ones in place of prompts that teach nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

from tk.contracts import Session, Source, Window
from tk.errors import TkError
from tk_rollouts.generate import Asked
from tk_rollouts.prompts import prompts_of

Drawn = list[tuple[int, Asked]]
"""This rank's share of the prompts that were drawn, each with its place among those of all ranks."""


@dataclass
class Pool:
    """A window that prompts are drawn from, one after another.

    before: cursor of the window before it. asked: its prompts on this rank. order: rank and number of each prompt on all
    ranks, in an order that does not depend on how they are dealt. used: how many of them have been drawn.
    """

    before: Any
    asked: Sequence[Asked]
    order: Sequence[tuple[int, int]]
    used: int = 0


class Stream:
    """Prompts of a source. Every rank asks equally often; each prompt is asked once in a pass over the data.

    beyond: further passes over the data follow the source's end. state: as `state` gave it, to go on from there.
    """

    def __init__(self, data: Source, session: Session, *, beyond: bool, state: Mapping[str, Any] | None = None) -> None:
        self.data, self.session, self.beyond = data, session, beyond
        self.cursor, self.epoch = (state["data"] if state else None), 0.0
        self.pool: Pool | None = None
        drawn = state["drawn"] if state else None
        if drawn:
            with closing(_closable(data.windows(drawn["before"], beyond=True))) as windows:
                self.pool = self._pool(next(windows), drawn["before"])
            self.pool.used = drawn["used"]
        self.windows = _closable(data.windows(self.cursor, beyond=beyond))

    def window(self) -> Window | None:
        """The next one; None at the end."""
        found = next(self.windows, None)
        if found is not None:
            self.cursor, self.epoch = found.cursor, found.epoch
        return found

    def draw(self, count: int) -> Drawn:
        """This rank's share of the next `count` prompts over all ranks, which are in no other window."""
        found: Drawn = []
        for place in range(count):
            if self.pool is None or self.pool.used == len(self.pool.order):
                before, window = self.cursor, self.window()
                if window is None:
                    raise TkError("The data has ended, and there is no further prompt.")
                self.pool = self._pool(window, before)
            rank, number = self.pool.order[self.pool.used]
            self.pool.used += 1
            if rank == self.session.world.rank:
                found.append((place, self.pool.asked[number]))
        return found

    def state(self) -> dict[str, Any]:
        """JSON-able: where it stands."""
        drawn = {"before": self.pool.before, "used": self.pool.used} if self.pool else None
        return {"data": self.cursor, "drawn": drawn}

    def close(self) -> None:
        """End what reads ahead."""
        self.windows.close()

    def _pool(self, window: Window, before: Any) -> Pool:
        asked = [(prompt, str(window.cursor)) for batch in window.batches for prompt in prompts_of(batch)]
        told = self.session.gather([prompt.sample.origin for prompt, _ in asked])
        places = sorted((origin, rank, i) for rank, own in enumerate(told) for i, origin in enumerate(own))
        return Pool(before, asked, [(rank, i) for _, rank, i in places])


def _closable(windows: Iterator[Window]) -> Any:
    """The iterator with a `close`, which ends what a loader does in the background."""

    def each() -> Iterator[Window]:
        try:
            yield from windows
        finally:
            close = getattr(windows, "close", None)
            if close:
                cast(Any, close)()

    return each()
