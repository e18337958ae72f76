"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from tk.errors import DataError, RequestError, TkError, UsageError

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""The `type` of an error by its status; others are the client's (4xx) or the server's (5xx)."""


class Refused(Exception):
    """A request that is not answered. param: the field that is to blame; code: OpenAI's word for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_after is not None:
            headers["Retry-After"] = f"{self.retry_after:g}"
        return JSONResponse(self.body(), self.status, headers)


@contextmanager
def of_the_engine() -> Iterator[None]:
    """What an engine raises about a request: the client's fault where it asks for what cannot be had, else the server's."""
    try:
        yield
    except RequestError as error:
        raise Refused(400, str(error), code="context_length_exceeded" if error.too_long else None) from error
    except (UsageError, DataError) as error:
        raise Refused(400, str(error)) from error
    except TkError as error:
        raise Refused(503, str(error), retry_after=1) from error


@dataclass(frozen=True)
class Deadline:
    """When an answer is given up. at: by the clock of the event loop. seconds: that it had."""

    at: float
    seconds: float

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """For what one task waits for in one go: a generator that gives something out in between may go on in another task."""
        try:
            async with asyncio.timeout_at(self.at):
                yield
        except TimeoutError as error:
            raise Refused(504, f"The answer took longer than {self.seconds:g} seconds.", code="timeout") from error
