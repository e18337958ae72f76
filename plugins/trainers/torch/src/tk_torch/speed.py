"""Clocks of a run: tokens a second between lines of the log, and where its time went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Speed:
    """Seconds of steps by what was done in them; evaluation and checkpoints stand outside of steps."""

    def __init__(self) -> None:
        self._created = self._started = time.perf_counter()
        self._before = self._first = self._of_first = 0.0
        self._tokens = 0
        self._inner: list[float] = []
        self._now, self._taken, self._all = Counter[str](), Counter[str](), Counter[str]()

    def start(self, before: float) -> None:
        """The first step begins; `before`: seconds that the run took before it was interrupted."""
        self._started, self._before = time.perf_counter(), before
        self._now.clear()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what is done inside, without what phases inside of it count for themselves."""
        begun = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begun
            self._now[name] += elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    def step(self, tokens: int) -> None:
        """A step was made, by the phases since the last one."""
        self._tokens += tokens
        self._taken.update(self._now)
        self._all.update(self._now)
        self._of_first = self._of_first or self._now.total()
        self._now.clear()
        self._first = self._first or time.perf_counter() - self._created

    def forget(self) -> None:
        """What was counted since the last step belongs to none."""
        self._now.clear()

    def take(self) -> dict[str, float]:
        """Tokens a second of the steps since the last call, and the seconds that each phase took of them."""
        spent = self._taken.total()
        found = {"tokens_per_second": self._tokens / spent if spent else 0.0}
        found |= {f"seconds/{name}": seconds for name, seconds in self._taken.items()}
        self._tokens = 0
        self._taken.clear()
        return found

    def seconds(self) -> float:
        """From the first step on, with the time before an interruption."""
        return self._before + time.perf_counter() - self._started

    def timings(self) -> dict[str, float]:
        """Seconds: until the first step began and until it was done, of the first step alone (in which what is compiled is
        compiled), of all steps of this process, and of their phases."""
        return {
            "until_loop": self._started - self._created,
            "until_first_step": self._first,
            "first_step": self._of_first,
            "steps": self._all.total(),
            **self._all,
        }
