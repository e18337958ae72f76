"""An endpoint that answers by a script, as servers of others do."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@pytest.fixture
def plain_url() -> Iterator[str]:
    """An endpoint of the protocol as OpenAI has it: no token ids. It takes its time, and breaks off once."""
    tries: list[int] = []

    async def models(_: HttpRequest) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"id": "plain", "object": "model", "created": 0, "owned_by": "x"}]}
        )

    async def completions(request: HttpRequest) -> Response:
        body = await request.json()
        if body["max_tokens"] == 99:
            await asyncio.sleep(30)
        tries.append(body["max_tokens"])

        async def pieces() -> Any:
            if body["max_tokens"] == 88 and tries.count(88) == 1:
                raise ConnectionError("broken off")
            head = {"id": "1", "object": "text_completion", "created": 0, "model": "plain"}
            for text, finish in (("he", None), ("llo", None), ("", "stop")):
                choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
                yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
                await asyncio.sleep(1.0 if body["max_tokens"] == 77 else 0)
            yield "data: [DONE]\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def chat(request: HttpRequest) -> Response:
        body = await request.json()

        def piece(text: str, finish: str | None) -> str:
            logprobs = {"content": [{"token": text, "logprob": -1.0, "top_logprobs": []}]}
            return sent({"content": text}, logprobs, finish)

        def sent(delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "plain"}
            return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

        def called(index: int, name: str, arguments: str, id: str | None = None) -> str:
            function = {"arguments": arguments, **({"name": name} if name else {})}
            return sent({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})

        if "tools" in body:
            pieces = [
                called(0, "look", "", "c1"),
                called(1, "rest", "", "c2"),
                called(0, "", '{"at":'),
                called(0, "", '"a"}'),
            ]
            if body["max_completion_tokens"] == 99:
                pieces = [
                    called(0, "look", '{"at": "Zü', "c1"),
                    called(0, "rest", "{}", "c2"),
                ]  # as if all were the first
            reason = "length" if body["max_completion_tokens"] == 99 else "tool_calls"
            end = [sent({}, finish=reason), "data: [DONE]\n\n"]
            return StreamingResponse(iter([piece("Let me see.", None), *pieces, *end]), media_type="text/event-stream")
        said = [piece("he", None), piece("llo", "length"), "data: [DONE]\n\n"]
        return StreamingResponse(iter(said), media_type="text/event-stream")

    post = {"/v1/completions": completions, "/v1/chat/completions": chat}
    app = Starlette(
        routes=[Route("/v1/models", models), *(Route(path, each, methods=["POST"]) for path, each in post.items())]
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        pass
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit, server.force_exit = True, True
    thread.join()
