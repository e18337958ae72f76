"""Iterators whose items are made ahead, by one thread or by several."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

P, T = TypeVar("P"), TypeVar("T")

_POLL = 0.1
"""Seconds after which a full queue looks whether anybody still reads it."""
_NAME = "tk-data"
_AHEAD = 2
"""Items that each thread makes before they are asked for."""


@dataclass
class _End:
    error: BaseException | None = None


class _Ahead(Generic[T]):
    def __init__(self, make: Callable[[], Iterable[T]], depth: int) -> None:
        self.queue: Queue[T | _End] = Queue(depth)
        self.closed = Event()
        self.thread = Thread(target=self._run, args=(make,), name=_NAME, daemon=True)

    def _run(self, make: Callable[[], Iterable[T]]) -> None:
        end = _End()
        try:
            for item in make():
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001  (raised again where the items are read)
            end.error = error
        self._put(end)

    def _put(self, item: T | _End) -> bool:
        while not self.closed.is_set():
            try:
                self.queue.put(item, timeout=_POLL)
            except Full:
                continue
            return True
        return False


def in_background(make: Callable[[], Iterable[T]], depth: int) -> Generator[T]:
    """The items of `make()`, up to `depth` of them made before they are asked for.

    What the thread raises is raised here, after the items before it. Closing the iterator ends the thread.
    """
    ahead = _Ahead(make, depth)
    ahead.thread.start()
    try:
        while not isinstance(item := ahead.queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        ahead.closed.set()
        ahead.thread.join()


def made_ahead(make: Callable[[P], T], places: Iterable[P], workers: int = 1) -> Generator[T]:
    """`make(place)` for each place in order, by threads: decoding and numpy leave the interpreter to others meanwhile.

    What `make` raises is raised here, in the place of its item. Closing the iterator ends the threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=_NAME)
    try:
        with closing(in_background(lambda: (pool.submit(make, p) for p in places), _AHEAD * workers)) as items:
            for item in items:
                yield item.result()
    finally:
        pool.shutdown(cancel_futures=True)
