"""What stands before every request: keys, limits of size, number and time, and counting. Plain ASGI, so that streams pass."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tk_openai_server.errors import Deadline, Refused
from tk_openai_server.metrics import Metrics
from tk_openai_server.options import ServerOptions

OPEN = ("/health",)
"""Paths that need no key, are never too many, and have no body that is waited for."""


GRACE = 10.0
"""Seconds, at most, that a client still has to take what was made for it when the time for that is over."""


class Guard:
    """Any of the keys opens everything; without keys all is open. paths: that are counted by name.

    What it lets in finds in its state when it is given up (`deadline`).
    """

    def __init__(self, app: ASGIApp, *, options: ServerOptions, metrics: Metrics, paths: Sequence[str]) -> None:
        self._app, self._options, self._metrics = app, options, metrics
        self._keys = [key.encode() for key in options.api_keys]
        self._paths = frozenset(paths)
        self._flying = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        begun, status = time.monotonic(), 499  # the client left before there was one

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if scope["path"] in OPEN:
                await self._app(scope, receive, sending)
            else:
                await self._guarded(scope, receive, sending)
        except Exception:
            status = 500  # told by what stands outside
            raise
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - begun)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        self._flying += 1
        self._metrics.in_flight.inc()
        try:
            await self._let_in(scope, receive, send)
        finally:
            self._flying -= 1
            self._metrics.in_flight.dec()

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._body(receive)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        if body is None:
            return
        loop = asyncio.get_running_loop()
        seconds = self._options.timeout
        deadline = Deadline(loop.time() + seconds, seconds)

        async def sending(message: Message) -> None:
            try:
                async with asyncio.timeout_at(max(deadline.at, loop.time()) + min(GRACE, seconds)):
                    await send(message)
            except TimeoutError as error:
                raise _NotTaken from error

        own = {**scope, "state": {**scope.get("state", {}), "deadline": deadline}}
        with suppress(_NotTaken):  # what is left of the answer is dropped, and the connection with it
            await self._app(own, _replayed(body, receive), sending)

    def _check(self, scope: Scope) -> None:
        """Raises Refused: 401, 413 by the announced size, 429."""
        headers = dict(scope["headers"])
        if self._keys:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not sum(hmac.compare_digest(given, key) for key in self._keys):  # all of them, in the same time
                raise Refused(401, "A key is needed: the header Authorization: Bearer KEY.", code="invalid_api_key")
        if int(headers.get(b"content-length", b"0")) > self._options.max_body:
            raise self._too_large()
        if self._flying >= self._options.max_requests:
            raise Refused(
                429,
                f"{self._options.max_requests} requests are on their way: come again.",
                code="overloaded",
                retry_after=1,
            )

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, in time; None where the client has left."""
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._options.timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > self._options.max_body:
                        raise self._too_large()
        except TimeoutError as error:
            raise Refused(408, "The request did not come in time.", code="timeout") from error
        return b"".join(parts)

    def _too_large(self) -> Refused:
        return Refused(413, f"The body is larger than {self._options.max_body:,} bytes.", code="too_large")


class _NotTaken(Exception):
    """The client does not read its answer."""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, then whatever comes: that the client leaves."""
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
