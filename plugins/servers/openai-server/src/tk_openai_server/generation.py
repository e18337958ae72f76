"""Chat and text completions: from a request of the protocol to the engine, and what comes of it back, whole or as events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

from tk.contracts import Delta, PromptLogps, Request, Sampling, Top
from tk_openai_server.errors import Deadline, Refused, of_the_engine
from tk_openai_server.metrics import Metrics
from tk_openai_server.schema import ChatRequest, CompletionRequest
from tk_openai_server.served import Served

DONE = "data: [DONE]\n\n"

SAMPLED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "n",
)
"""Fields that the protocol and the `sampling` section call alike."""


def sampling_of(asked: ChatRequest | CompletionRequest, served: Served) -> Sampling:
    """The server's `sampling` with what the request says. Raises Refused for what cannot be done."""
    limit = getattr(asked, "max_completion_tokens", None)
    limit = asked.max_tokens if limit is None else limit
    if limit == 0 and not getattr(asked, "echo", False):
        raise Refused(400, "max_tokens: 0 is for the log-probabilities of a prompt: with echo.", param="max_tokens")
    most = served.options.max_output
    if most is not None and limit is not None and limit > most:
        raise Refused(400, f"max_tokens is {limit}, and {most} is the limit.", param="max_tokens")
    wanted = asked.logprobs is not None and asked.logprobs is not False
    top = getattr(asked, "top_logprobs", None) if isinstance(asked.logprobs, bool | None) else asked.logprobs
    if top and not wanted:
        raise Refused(400, "top_logprobs: they come with logprobs: true.", param="top_logprobs")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()) or None
    given = {
        "max_tokens": (min(served.sampling.max_tokens, most) if most else None) if limit is None else limit,
        "stop": stop,
        "logprobs": wanted,
        "top_logprobs": top or 0,
        **{name: getattr(asked, name) for name in SAMPLED},
    }
    return replace(served.sampling, **{name: value for name, value in given.items() if value is not None})


@dataclass
class Counted:
    """What a request has used."""

    prompt: int
    completion: int = 0

    def body(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


@dataclass
class Choice:
    """A completion on its way. index: among the response's choices."""

    index: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)
    prompt: PromptLogps | None = None
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.ids += delta.ids
        self.logps += delta.logps
        self.top += delta.top
        self.prompt = self.prompt or delta.prompt
        self.finish_reason = delta.finish_reason or None


class Shape(Protocol):
    """How a protocol writes choices."""

    kind: str
    prefix: str

    def whole(self, choice: Choice) -> dict[str, Any]: ...
    def opening(self, choice: Choice) -> dict[str, Any] | None: ...
    def piece(self, choice: Choice, delta: Delta) -> dict[str, Any] | None: ...


@dataclass
class Generation:
    """Completions of some prompts, in one response."""

    served: Served
    model: str
    metrics: Metrics
    shape: Shape
    requests: Sequence[Request]
    used: Counted
    deadline: Deadline
    ids: bool = False
    """Whether tokens are told by their ids as well."""
    logprobs_of: str | None = None
    """Whose log-probabilities were asked for, which is told back."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> dict[str, Any]:
        """The response with all choices."""
        choices = [Choice(i) for i in range(sum(r.sampling.n for r in self.requests))]
        async with aclosing(self._deltas(choices)) as deltas:
            async for choice, delta in deltas:
                choice.add(delta)
        written = [self._with_ids(self.shape.whole(c), c.ids) for c in choices]
        return self._body(written, self.shape.kind) | {"usage": self.used.body()}

    async def events(self, usage: bool) -> AsyncGenerator[str]:
        """Server-sent events, as the pieces come; an error in the midst is an event as well."""
        choices = [Choice(i) for i in range(sum(r.sampling.n for r in self.requests))]
        kind = f"{self.shape.kind}.chunk" if self.shape.kind.startswith("chat") else self.shape.kind
        rest: dict[str, Any] = {"usage": None} if usage else {}
        begun: set[int] = set()
        async with aclosing(self._deltas(choices)) as deltas:
            async for choice, delta in deltas:
                choice.add(delta)
                if choice.index not in begun:
                    begun.add(choice.index)
                    if (opening := self.shape.opening(choice)) is not None:
                        yield _event(self._body([opening], kind) | rest)
                if not (delta.text or delta.finish_reason or delta.logps or (self.ids and delta.ids)):
                    continue
                if (piece := self.shape.piece(choice, delta)) is not None:
                    yield _event(self._body([self._with_ids(piece, delta.ids)], kind) | rest)
        if usage:
            yield _event(self._body([], kind) | {"usage": self.used.body()})
        yield DONE

    async def _deltas(self, choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Delta]]:
        """The deltas of all requests as they come. Raises Refused for a request that fails, and for one that takes too long."""
        begun, first = time.monotonic(), True
        offsets = [0, *accumulate(request.sampling.n for request in self.requests)]
        async with aclosing(self.served.dispatcher.stream(self.requests)) as stream:  # type: ignore[type-var]
            while True:
                async with self.deadline.kept():
                    with of_the_engine():
                        found = await anext(stream, None)
                if found is None:
                    return
                place, delta = found
                if first:
                    self.metrics.first_token.observe(time.monotonic() - begun)
                    first = False
                self.used.completion += len(delta.ids)
                self.metrics.generated.inc(len(delta.ids))
                yield choices[offsets[place] + delta.number], delta

    def _with_ids(self, choice: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        return {**choice, "token_ids": list(ids)} if self.ids else choice

    def _body(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.shape.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": self.served.fingerprint,
            **({"logprobs_of": self.logprobs_of} if self.logprobs_of else {}),
        }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
