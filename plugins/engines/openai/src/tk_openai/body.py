"""Requests as an endpoint reads them."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tk.contracts import Request, Sampling
from tk.errors import TkError, UsageError
from tk.sample import Message, Part
from tk_openai.calls import Named
from tk_openai.options import OpenAIOptions


def chat_body(request: Request, model: str, options: OpenAIOptions) -> dict[str, Any]:
    """The fields of /chat/completions. What the protocol does not have (top_k …) is sent only where it is asked for."""
    sampling = request.sampling
    own: dict[str, Any] = {
        "messages": _messages(request.messages),
        "max_completion_tokens": sampling.max_tokens,
    }
    if request.tools:
        own["tools"] = [
            tool if "function" in tool else {"type": "function", "function": tool} for tool in request.tools
        ]
    if sampling.logprobs:
        own["logprobs"] = True
    further = _further(sampling, options)
    return {"model": model, **_shared(sampling), **own, "extra_body": {**further, **options.extra}}


def completion_body(
    request: Request, stop_ids: Sequence[int], limit: int, model: str, options: OpenAIOptions
) -> dict[str, Any]:
    """The fields of /completions for a prompt's tokens, which are told by their ids as well (`return_token_ids`)."""
    sampling = request.sampling
    own: dict[str, Any] = {"prompt": list(request.ids), "max_tokens": limit}
    further = {**_further(sampling, options), "return_token_ids": True, "stop_token_ids": list(stop_ids)}
    if sampling.logprobs:
        own["logprobs"] = 0
    return {"model": model, **_shared(sampling), **own, "extra_body": {**further, **options.extra}}


def asks_for_sampled(sampling: Sampling, options: OpenAIOptions) -> bool:
    """Whether log-probs are wanted of another distribution than the model's own, and the endpoint has to be told so."""
    return sampling.logprobs and sampling.reshapes and options.logprobs_of is None


def _shared(sampling: Sampling) -> dict[str, Any]:
    values: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "n": sampling.n}
    if sampling.stop:
        values["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        values["seed"] = sampling.seed
    given = {name: getattr(sampling, name) for name in ("presence_penalty", "frequency_penalty", "logit_bias")}
    return {**values, **{name: value for name, value in given.items() if value}}


def _further(sampling: Sampling, options: OpenAIOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if asks_for_sampled(sampling, options):
        found["logprobs_of"] = "sampled"
    if sampling.top_k:
        found["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1.0:
        found["repetition_penalty"] = sampling.repetition_penalty
    return found


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    named, made = Named(messages), list[dict[str, Any]]()
    for message in messages:
        content = message.content if isinstance(message.content, str) else [_part(part) for part in message.content]
        own: dict[str, Any] = {"role": message.role, "content": content}
        if message.role == "tool":
            own["tool_call_id"] = named.answered(message)
        elif message.tool_calls:
            own |= {"content": content or None, "tool_calls": named.made(message.tool_calls)}
        made.append(own)
    return made


def _part(part: Part) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type != "image" or part.source is None:
        raise UsageError(f"A message with {part.type} is not sent to an endpoint: text and pictures are.")
    return {"type": "image_url", "image_url": {"url": _url(part.source)}}


def _url(source: str | bytes) -> str:
    """A picture's address, or the picture itself as one."""
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return source
    kind = (mimetypes.guess_type(source)[0] if isinstance(source, str) else None) or "image/png"
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise TkError(f"{source!r}: the picture cannot be read: {error.strerror}.") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
