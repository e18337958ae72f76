"""An iterator that runs ahead in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL = 0.1
"""Seconds after which a full queue looks whether anybody still reads it."""


@dataclass
class _End:
    error: BaseException | None = None


class _Ahead(Generic[T]):
    def __init__(self, make: Callable[[], Iterator[T]], depth: int) -> None:
        self.queue: Queue[T | _End] = Queue(depth)
        self.closed = Event()
        self.thread = Thread(target=self._run, args=(make,), name="tk-data", daemon=True)

    def _run(self, make: Callable[[], Iterator[T]]) -> None:
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


def in_background(make: Callable[[], Iterator[T]], depth: int) -> Iterator[T]:
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
