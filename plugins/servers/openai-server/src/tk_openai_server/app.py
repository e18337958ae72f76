"""The server's routes: the OpenAI protocol over a served model."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tk import __version__
from tk_openai_server.errors import Refused
from tk_openai_server.generation import Counted, Generation, Shape, sampling_of
from tk_openai_server.guard import Guard
from tk_openai_server.metrics import Metrics
from tk_openai_server.options import ServerOptions
from tk_openai_server.routes import Route
from tk_openai_server.schema import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LoadAdapterRequest,
    TokenizeRequest,
    Tool,
    UnloadAdapterRequest,
    WeightsRequest,
)
from tk_openai_server.served import Prompt, Served
from tk_openai_server.shapes import ChatShape, Echo, TextShape
from tk_text.stream import bytes_of


def create_app(served: Served, options: ServerOptions) -> FastAPI:
    """The ASGI application. It closes `served` when it is shut down."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)

    app = FastAPI(title="tk", version=__version__, lifespan=living)
    metrics = Metrics()
    routes = _Routes(served, metrics)
    table = [*routes.table(), *(routes.of_adapters() if options.load_adapters else ())]
    table += routes.of_weights() if options.weight_updates else []
    app.router.route_class = Route
    for method, path, endpoint in table:
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    paths = [path for _, path, _ in table]
    app.add_middleware(Guard, options=options, metrics=metrics, paths=paths)
    return app


class _Routes:
    def __init__(self, served: Served, metrics: Metrics) -> None:
        self._served, self._metrics = served, metrics

    def table(self) -> list[tuple[str, str, Any]]:
        return [
            ("POST", "/v1/chat/completions", self.chat),
            ("POST", "/v1/completions", self.completions),
            ("POST", "/v1/embeddings", self.embeddings),
            ("GET", "/v1/models", self.models),
            ("POST", "/tokenize", self.tokenize),
            ("GET", "/health", self.health),
            ("GET", "/metrics", self.metrics),
        ]

    def of_adapters(self) -> list[tuple[str, str, Any]]:
        return [
            ("POST", "/v1/load_lora_adapter", self.load_adapter),
            ("POST", "/v1/unload_lora_adapter", self.unload_adapter),
        ]

    def of_weights(self) -> list[tuple[str, str, Any]]:
        return [("POST", "/v1/update_weights", self.update_weights)]

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """An answer to a conversation."""
        model = self._named(asked.model)
        if asked.response_format and asked.response_format.get("type") != "text":
            said = "response_format: only text is supported: nothing here holds an answer to JSON or a schema while it is made."
            raise Refused(400, said, param="response_format")
        if asked.tool_choice not in (None, "none", "auto"):
            said = "tool_choice: only none and auto are supported: nothing here makes a model call a tool."
            raise Refused(400, said, param="tool_choice")
        sampling = sampling_of(asked, self._served)
        tools = _tools(asked.tools) if asked.tool_choice != "none" else []
        async with request.state.deadline.kept():
            prompt = await self._served.chat([m.model_dump(exclude_unset=True) for m in asked.messages], tools)
        also: dict[str, Any] = {"stop_ids": asked.stop_token_ids, "logprobs_of": asked.logprobs_of}
        made = [self._served.request(model, prompt, sampling, chat=True, **also)]
        template, single = self._served.template if tools else None, asked.parallel_tool_calls is False
        shape = ChatShape(self._token, self._bytes, sampling.logprobs, template, single)
        return await self._answer(model, asked, request, shape, made, [prompt])

    async def completions(self, asked: CompletionRequest, request: Request) -> Response:
        """What texts go on with."""
        model = self._named(asked.model)
        if asked.suffix:
            raise Refused(400, "suffix is not supported.", param="suffix")
        if asked.best_of not in (None, asked.n or 1):
            raise Refused(400, "best_of is not supported.", param="best_of")
        sampling = sampling_of(asked, self._served)
        async with request.state.deadline.kept():
            room = min(1, sampling.max_tokens)
            prompts = [await self._served.prompt(each, room=room) for each in _each(asked.prompt)]
        echo = {}
        if asked.echo:
            told = [self._echo(prompt) for prompt in prompts]
            echo = {i * sampling.n + k: each for i, each in enumerate(told) for k in range(sampling.n)}
        reads = asked.echo and (sampling.logprobs or not sampling.max_tokens)
        also: dict[str, Any] = {"stop_ids": asked.stop_token_ids, "logprobs_of": asked.logprobs_of}
        made = [self._served.request(model, p, sampling, chat=False, prompt_logps=reads, **also) for p in prompts]
        shape = TextShape(self._token, sampling.logprobs, sampling.top_logprobs, echo)
        return await self._answer(model, asked, request, shape, made, prompts)

    async def embeddings(self, asked: EmbeddingRequest, request: Request) -> Response:
        """The vectors of texts."""
        model = self._named(asked.model)
        async with request.state.deadline.kept():
            prompts = [await self._served.prompt(each, room=0) for each in _each(asked.input)]
            vectors = await self._served.vectors(model, prompts)
        if asked.dimensions is not None:
            if not 0 < asked.dimensions <= len(vectors[0]):
                raise Refused(400, f"dimensions: the vectors have {len(vectors[0])}.", param="dimensions")
            vectors = [_shortened(vector, asked.dimensions) for vector in vectors]
        used = sum(map(len, prompts))
        self._metrics.prompts.inc(used)
        return JSONResponse(
            {
                "object": "list",
                "model": model,
                "data": [
                    {"object": "embedding", "index": i, "embedding": _written(vector, asked.encoding_format)}
                    for i, vector in enumerate(vectors)
                ],
                "usage": {"prompt_tokens": used, "total_tokens": used},
            }
        )

    async def models(self) -> dict[str, Any]:
        """The models that are served."""
        served = self._served
        told = {"object": "model", "created": served.created, "owned_by": "tk", "max_model_len": served.max_length}
        parents = {served.name: None, **dict.fromkeys(served.adapters, served.name)}
        return {"object": "list", "data": [{"id": name, **told, "parent": parent} for name, parent in parents.items()]}

    async def load_adapter(self, asked: LoadAdapterRequest) -> Response:
        """A model more, from a folder of this machine."""
        await self._served.load(asked.lora_name, asked.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload_adapter(self, asked: UnloadAdapterRequest) -> Response:
        """A model less."""
        await self._served.unload(asked.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    async def update_weights(self, asked: WeightsRequest) -> dict[str, Any]:
        """Other weights in the model from now on; what is served then, as a digest."""
        return {"version": asked.version, "digest": await self._served.update(asked.folder, asked.version)}

    async def tokenize(self, asked: TokenizeRequest) -> dict[str, Any]:
        """The tokens of a text, or of a conversation as it would be answered."""
        self._named(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise Refused(400, "Either prompt or messages are tokenised.")
        if asked.messages is not None:
            messages = [m.model_dump(exclude_unset=True) for m in asked.messages]
            prompt = await self._served.chat(messages, _tools(asked.tools))
        else:
            prompt = await self._served.prompt(asked.prompt or "")
        return {"tokens": list(prompt.encoding.ids), "count": len(prompt), "max_model_len": self._served.max_length}

    async def health(self) -> dict[str, str]:
        """That the server is there."""
        return {"status": "ok"}

    async def metrics(self) -> Response:
        """Counters for Prometheus."""
        return PlainTextResponse(self._metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    def _named(self, model: str | None) -> str:
        """The model that is meant. Raises Refused for one that is not here."""
        names = (self._served.name, *self._served.adapters)
        if model is None:
            return self._served.name
        if model not in names:
            raise Refused(
                404, f"There is no model {model!r} here: {', '.join(names)}.", param="model", code="model_not_found"
            )
        return model

    def _echo(self, prompt: Prompt) -> Echo:
        ids = list(prompt.encoding.ids)
        return Echo(self._served.tokenizer.decode(ids, skip_special_tokens=True), ids)

    def _token(self, token: int) -> str:
        return str(self._served.tokenizer.decode([token], skip_special_tokens=False))

    def _bytes(self, token: int) -> bytes | None:
        return bytes_of(self._served.tokenizer, token)

    async def _answer(
        self,
        model: str,
        asked: ChatRequest | CompletionRequest,
        request: Request,
        shape: Shape,
        made: Sequence[Any],
        prompts: Sequence[Prompt],
    ) -> Response:
        if self._served.head.kind != "lm":
            raise Refused(400, f"{self._served.name} generates no text.", param="model")
        answers, most = sum(each.sampling.n for each in made), self._served.options.max_answers
        if answers > most:
            raise Refused(400, f"{answers} answers are asked for at once, and {most} are the limit.", param="n")
        used, deadline = Counted(sum(map(len, prompts))), request.state.deadline
        self._metrics.prompts.inc(used.prompt)
        ids = getattr(asked, "return_token_ids", False)
        generation = Generation(self._served, model, self._metrics, shape, made, used, deadline, ids, asked.logprobs_of)
        if not asked.stream:
            return JSONResponse(await generation.whole())
        events = generation.events(bool(asked.stream_options and asked.stream_options.include_usage))
        first = await anext(events)  # what is wrong from the beginning has a status of its own
        return _Events(_whole(first, events))


class _Events(StreamingResponse):
    """What it is made of is closed with it, wherever it ends."""

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def _whole(first: str, events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """All events; an error that comes after the first is one."""
    async with aclosing(events):
        try:
            yield first
            async for event in events:
                yield event
        except Refused as refused:
            yield f"data: {refused.response().body.decode()}\n\n"


def _tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """As the template is given them. Raises Refused for one whose calls are to be held to its schema."""
    for number, tool in enumerate(tools or ()):
        if tool.function.strict:
            said = "strict: nothing here holds a call to its schema while it is made."
            raise Refused(400, said, param=f"tools.{number}.function.strict")
    return [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools or ()]


def _each(prompt: Any) -> list[Any]:
    """One prompt as text or ids, or several."""
    return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


def _shortened(vector: Sequence[float], size: int) -> list[float]:
    """The first numbers, of length 1 (arXiv:2205.13147)."""
    kept = vector[:size]
    norm = sum(value * value for value in kept) ** 0.5
    return [value / norm for value in kept] if norm else list(kept)


def _written(vector: Sequence[float], encoding: str) -> Any:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else list(vector)


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)
    return refused.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong with a body, by its first fault."""
    assert isinstance(error, RequestValidationError)
    if not request.headers.get("content-type", "").partition(";")[0].strip().endswith("json"):
        return Refused(415, "The body is JSON: send the header Content-Type: application/json.").response()
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return Refused(400, f"{place}: {first['msg']}" if place else str(first["msg"]), param=place or None).response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Refused(error.status_code, str(error.detail)).response()


async def _failed(_: Request, __: Exception) -> Response:
    """What nobody foresaw; uvicorn writes its traceback to the log."""
    return Refused(500, "The server failed at this request; its log says how.").response()
