"""What a route does with a body before it is read: a look at the JSON as such, and an eye on the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from tk_openai_server.errors import Refused

DEEPEST = 100
"""Objects and lists inside one another: far below what any reader of them bears."""


class Route(APIRoute):
    """Leaves nothing of a body that those behind it would stumble over, and ends where the client leaves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handled(request: Request) -> Response:
            if await request.body():
                try:
                    body = await request.json()
                except (ValueError, RecursionError):
                    pass  # the handler tells what is wrong with it
                else:
                    check(body)
            return await _unless_gone(request, handle(request))

        return handled


def check(body: Any) -> None:
    """Raises Refused for JSON that is nested too deep, or holds half of a character: neither tokenizers nor JSON can write it."""
    level, depth = [body], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise Refused(400, f"The body is nested deeper than {DEEPEST} levels.")
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str):
                _encodable(each)
        level = inner


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused(400, "The body holds half of a character (a lone surrogate).") from error


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response; where the client leaves before, the work is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else Response(status_code=499)
    finally:
        for each in (task, gone):
            each.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
