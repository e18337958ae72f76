"""The reward `accuracy`: gold answers from a column, the comparison in worker processes.

Comparing formulas may take for ever, or all memory, and inside one process neither can be stopped from outside the
main thread. Each worker therefore is a process of its own that is ended when its time is up.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Sequence
from typing import Any

from tk.contracts import Scored
from tk.errors import UsageError
from tk_math.options import AccuracyOptions
from tk_math.process import Checker


class Accuracy:
    """1.0 where the completion's answer equals the gold answer, 0.0 where not, None where there is no gold answer.

    Text in `<think>…</think>` is no answer; a completion that never leaves its reasoning has none.
    """

    def __init__(self, options: AccuracyOptions) -> None:
        self.options = options
        self._idle: queue.Queue[Checker] = queue.Queue()
        for _ in range(options.workers):
            self._idle.put(Checker(options.extract, options.decimals, options.timeout, options.memory))

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        golds = self._golds(batch)
        answers = [answer_part(message.text) for message in batch.completions]
        pairs = zip(golds, answers, strict=True)
        return await asyncio.gather(*(asyncio.to_thread(self._check, gold, answer) for gold, answer in pairs))

    def close(self) -> None:
        """End the worker processes; they start again when they are needed. None may be at work."""
        for _ in range(self.options.workers):
            checker = self._idle.get()
            checker.close()
            self._idle.put(checker)

    def _golds(self, batch: Scored) -> Sequence[Any]:
        first = batch.columns.get(self.options.column)
        second = batch.columns.get("answer")
        if first is None and second is None:
            has = ", ".join(sorted(batch.columns)) or "none"
            raise UsageError(
                f"rewards.accuracy: the rows have no column {self.options.column!r} and no 'answer' (columns: {has}). "
                "Name the column with the gold answer: rewards.accuracy.column."
            )
        count = len(batch.completions)
        pairs = zip(first or [None] * count, second or [None] * count, strict=True)
        return [theirs if ours is None else ours for ours, theirs in pairs]

    def _check(self, gold: Any, answer: str) -> float | None:
        if gold is None or not str(gold).strip():
            return None
        checker = self._idle.get()
        try:
            return checker.check(str(gold), answer)
        finally:
            self._idle.put(checker)


def answer_part(text: str) -> str:
    """What a completion says after its reasoning; nothing while the reasoning has not ended."""
    if "</think>" in text:
        return text.rpartition("</think>")[2].strip()
    return "" if "<think>" in text else text.strip()
