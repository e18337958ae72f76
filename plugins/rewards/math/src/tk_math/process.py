"""The near side of a worker process: starts it, asks it, and ends it when it takes too long."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

from tk.errors import TkError

_START_SECONDS = 120.0
"""Time to import sympy on a busy machine."""


class Checker:
    """One worker, started with its first question and again after each question that ended it.

    Questions and answers are lines of JSON. Not for several threads at once.
    """

    def __init__(self, extract: str, decimals: int, timeout: float, memory: int) -> None:
        self.settings = {"extract": extract, "decimals": decimals, "memory": memory, "timeout": timeout}
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None

    def check(self, gold: str, answer: str) -> float | None:
        """1.0, 0.0, or None where `gold` is no answer. An answer that exceeds the limits is a wrong one.

        Raises TkError where the worker cannot start.
        """
        found = self._ask({"gold": gold}, self.timeout)
        if found is None or not found["gold"]:
            return None
        if not answer:
            return 0.0
        # The worker limits itself by signals; the second limit is for code that signals do not interrupt.
        found = self._ask({"gold": gold, "answer": answer}, self.timeout + 1.0)
        return 0.0 if found is None else float(found["score"])

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _ask(self, question: dict[str, str], seconds: float) -> dict[str, Any] | None:
        """The worker's reply, or None where it had to be ended, or died of the question twice."""
        for _ in range(2):
            if self._process is None or self._process.poll() is not None:
                self._start()
            began = time.monotonic()
            reply = self._exchange(question, seconds)
            if reply is not None or time.monotonic() - began >= seconds:
                return reply
        return None

    def _start(self) -> None:
        self.close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tk_math.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        weakref.finalize(self, _end, self._process)
        if self._exchange(self.settings, _START_SECONDS) is None:
            raise TkError(
                "rewards.accuracy: its worker does not start; `python -m tk_math.worker < /dev/null` shows why."
            )

    def _exchange(self, message: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return None
        limit = threading.Timer(seconds, process.kill)
        limit.daemon = True
        limit.start()
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            limit.cancel()
        if not line.endswith("\n"):
            self.close()
            return None
        reply: dict[str, Any] = json.loads(line)
        return reply


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a question that it never read
                continue
