"""What stands before every request: keys, limits of size, number and time, and counting. Plain ASGI, so that streams pass."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tk_openai_server.errors import Refused
from tk_openai_server.metrics import Metrics
from tk_openai_server.options import ServerOptions

OPEN = ("/health",)
"""Paths that need no key and are never too many."""


class Guard:
    """Any of the keys opens everything; without keys all is open. paths: that are counted by name."""

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

        self._flying += 1
        self._metrics.in_flight.inc()
        try:
            await self._guarded(scope, receive, sending)
        finally:
            self._flying -= 1
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - begun)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] not in OPEN:
                self._check(scope)
            body = await self._body(receive)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    def _check(self, scope: Scope) -> None:
        """Raises Refused: 401, 413 by the announced size, 429."""
        headers = dict(scope["headers"])
        if self._keys:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not sum(hmac.compare_digest(given, key) for key in self._keys):  # all of them, in the same time
                raise Refused(401, "A key is needed: the header Authorization: Bearer KEY.", code="invalid_api_key")
        if int(headers.get(b"content-length", b"0")) > self._options.max_body:
            raise self._too_large()
        if self._flying > self._options.max_requests:
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


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, then whatever comes: that the client leaves."""
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
