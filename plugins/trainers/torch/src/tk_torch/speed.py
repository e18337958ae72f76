"""Clocks of a run: tokens a second between lines of the log, and where its time went."""

from __future__ import annotations

import time


class Speed:
    """Counts tokens and the seconds of steps; evaluation and checkpoints stand outside of tokens a second."""

    def __init__(self) -> None:
        self._created = self._started = time.perf_counter()
        self._before = 0.0
        self._tokens = 0
        self._spent = 0.0
        self._training = 0.0
        self._first = 0.0

    def start(self, before: float) -> None:
        """The first step begins; `before`: seconds that the run took before it was interrupted."""
        self._started, self._before = time.perf_counter(), before

    def add(self, tokens: int, seconds: float) -> None:
        """A step."""
        self._tokens += tokens
        self._spent += seconds
        self._training += seconds
        self._first = self._first or time.perf_counter() - self._created

    def take(self) -> float:
        """Tokens a second since the last call."""
        found = self._tokens / self._spent if self._spent else 0.0
        self._tokens, self._spent = 0, 0.0
        return found

    def seconds(self) -> float:
        """From the first step on, with the time before an interruption."""
        return self._before + time.perf_counter() - self._started

    def timings(self) -> dict[str, float]:
        """Seconds: until the first step began and until it was done, and of all steps of this process."""
        return {
            "until_loop": self._started - self._created,
            "until_first_step": self._first,
            "steps": self._training,
        }
