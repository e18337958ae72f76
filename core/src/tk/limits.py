"""A limit on how long foreign code may take, for code that waits, that computes, and that holds the interpreter."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_AGAIN = 0.5
"""Seconds until the code is interrupted once more, should it have swallowed the interruption."""


class TooLong(BaseException):
    """The time is over. Not an Exception, so that the code's own `except Exception` lets it pass."""


def limited(action: Callable[[], T], seconds: float) -> T:
    """What `action` returns. Raises TooLong when it takes longer, and whatever it raises itself.

    In the main thread it runs there (some libraries need that: signals) and is interrupted by SIGVTALRM: sent by a
    watching thread, which ends a wait, and every second of processor time, which ends what holds the interpreter's lock,
    such as a regular expression. In another thread it runs in a thread of its own, which is left behind, and does not
    keep the process alive. Code that neither returns to Python nor looks for signals cannot be ended.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGVTALRM"):
        with _alarm(seconds):
            return action()
    return _beside(action, seconds)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    deadline, lock, over = time.monotonic() + seconds, threading.Lock(), threading.Event()
    main = threading.get_ident()

    def interrupt(*_: object) -> None:
        if not over.is_set() and time.monotonic() >= deadline:
            raise TooLong

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            with lock:  # never after the handler is gone
                if not over.is_set():
                    signal.pthread_kill(main, signal.SIGVTALRM)
            wait = _AGAIN

    former = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, min(seconds, 1.0), 1.0)
    watcher = threading.Thread(target=watch, name="tk-limit", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        with lock:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, signal.SIG_IGN if former is signal.SIG_DFL else former)
        watcher.join()


def _beside(action: Callable[[], T], seconds: float) -> T:
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(action())
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            failed.append(error)

    thread = threading.Thread(target=run, name="tk-limited", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TooLong
    return found[0]
