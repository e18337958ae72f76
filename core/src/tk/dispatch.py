"""An engine asked by many at once: it runs in a thread of its own, and each request hears what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from tk.contracts import Completion, Delta, Engine, Request
from tk.engines import Growing
from tk.errors import TkError

T = TypeVar("T")


class Dispatcher:
    """Runs `engine`, which nobody else calls from now on, until it is closed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._acts: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._open: dict[int, Ticket] = {}
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stream(self, requests: Sequence[Request]) -> AsyncIterator[tuple[int, Delta]]:
        """What comes of requests, with the place of its request; leaving the loop cancels them.

        Raises TkError where one fails; the others are cancelled.
        """
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Delta]]()

        def heard(place: int, delta: Delta) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any longer
                loop.call_soon_threadsafe(inbox.put_nowait, (place, delta))

        tickets = [self.submit(request, partial(heard, place)) for place, request in enumerate(requests)]
        left = sum(request.sampling.n for request in requests)
        try:
            while left:
                place, delta = await inbox.get()
                if delta.error is not None:
                    raise delta.error
                left -= bool(delta.finish_reason)
                yield place, delta
        finally:
            for ticket in tickets:
                ticket.cancel()

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """`sampling.n` completions of each request, in order. Cancelling the task cancels the requests."""
        growing = [[Growing() for _ in range(request.sampling.n)] for request in requests]
        done: dict[tuple[int, int], Completion] = {}
        async for place, delta in self.stream(requests):
            own = growing[place][delta.number]
            own.add(delta)
            if delta.finish_reason:
                done[place, delta.number] = own.completion(requests[place], delta)
        return [[done[i, number] for number in range(request.sampling.n)] for i, request in enumerate(requests)]

    def submit(self, request: Request, heard: Callable[[Delta], None]) -> Ticket:
        """Ask, from any thread; `heard` is called in the engine's. What cannot be served is heard as an error."""
        ticket = Ticket(self, request, heard)
        self._acts.put(lambda: self._begin(ticket))
        return ticket

    def call(self, act: Callable[[Engine], T]) -> Future[T]:
        """Something else that is done with the engine, between two of its steps."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(act(self._engine))
                except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                    future.set_exception(error)

        self._acts.put(run)
        return future

    def forget(self, ticket: Ticket) -> None:
        """Cancel a request, from any thread; one that has ended is no error."""
        self._acts.put(lambda: self._cancel(ticket))

    def end(self, wanted: Callable[[Request], bool], error: TkError) -> None:
        """Fail the requests on their way that are meant; for `call`, in the engine's thread."""
        for ticket in list(self._open.values()):
            if wanted(ticket.request):
                ticket.heard(Delta("", finish_reason="error", error=error))
                self._cancel(ticket)

    def close(self) -> None:
        """End; what is on its way fails."""
        self._acts.put(self._end)
        self._thread.join()
        self._engine.close()

    # --- in the engine's thread ---

    def _run(self) -> None:
        while not self._ending:
            try:
                if not self._open or not self._acts.empty():
                    self._acts.get()()
                    continue
                for delta in self._engine.step():
                    self._tell(delta)
            except Exception as error:  # noqa: BLE001 - told to everybody who waits; the engine may be asked again
                self._fail(_as_ours(error))

    def _begin(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            return
        try:
            ticket.key = self._engine.add(ticket.request)
        except Exception as error:  # noqa: BLE001 - told to the one who asked
            ticket.heard(Delta("", finish_reason="error", error=_as_ours(error)))
        else:
            self._open[ticket.key] = ticket

    def _tell(self, delta: Delta) -> None:
        ticket = self._open.get(delta.key)
        if ticket is None:
            return
        ticket.heard(delta)
        ticket.left -= bool(delta.finish_reason)
        if delta.error is not None:
            self._cancel(ticket)
        elif not ticket.left:
            del self._open[delta.key]

    def _cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True
        if self._open.pop(ticket.key, None):
            self._engine.cancel(ticket.key)

    def _fail(self, error: TkError) -> None:
        """Everybody is told before the engine is asked to forget them: one that has failed may fail in that as well."""
        failed, self._open = self._open, {}
        for ticket in failed.values():
            ticket.cancelled = True
            ticket.heard(Delta("", finish_reason="error", error=error))
        for key in failed:
            with contextlib.suppress(Exception):
                self._engine.cancel(key)

    def _end(self) -> None:
        self._ending = True
        self._fail(TkError("The engine is closed."))


def _as_ours(error: Exception) -> TkError:
    return error if isinstance(error, TkError) else TkError(f"The engine failed: {error!r}.")


class Ticket:
    """A request that was asked. left: completions that have not ended."""

    def __init__(self, dispatcher: Dispatcher, request: Request, heard: Callable[[Delta], None]) -> None:
        self.request, self.heard, self.left = request, heard, request.sampling.n
        self.key, self.cancelled = -1, False
        self._dispatcher = dispatcher

    def cancel(self) -> None:
        """Forget the request; one that has ended is no error."""
        if self.left:
            self._dispatcher.forget(self)
