"""How chat completions and text completions are written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tk.contracts import Delta
from tk.sample import Message, ToolCall
from tk_openai_server.generation import Choice

Token = Callable[[int], str]
"""The text of a single token."""


@dataclass
class ChatShape:
    """chat.completion: a message, or deltas of one.

    read: where tools may be called, what an answer says; such an answer is streamed when it is whole.
    """

    token: Token
    logprobs: bool
    read: Callable[[Sequence[int]], Message] | None = None
    kind: str = "chat.completion"
    prefix: str = "chatcmpl"

    def whole(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", **self._said(choice, choice.text), "refusal": None}
        return self._choice(choice, {"message": message}, choice.ids, choice.logps)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        said = {"role": "assistant", "content": ""}
        return {"index": choice.index, "delta": said, "logprobs": None, "finish_reason": None}

    def piece(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        if self.read is not None and not delta.finish_reason:
            return None
        if self.read is None:
            said, ids, logps = {"content": delta.text} if delta.text else {}, delta.ids, delta.logps
        else:
            said, ids, logps = self._said(choice, choice.text), choice.ids, choice.logps
            for index, call in enumerate(said.get("tool_calls", ())):
                call["index"] = index
        return self._choice(choice, {"delta": said}, ids, logps)

    def _said(self, choice: Choice, text: str) -> dict[str, Any]:
        """Content, or calls of tools; the finish reason tells which."""
        message = self.read(choice.ids) if self.read is not None else None
        if message is None or not message.tool_calls:
            return {"content": text}
        choice.finish_reason = "tool_calls"
        return {"content": message.text or None, "tool_calls": [_call(call) for call in message.tool_calls]}

    def _choice(self, choice: Choice, said: dict[str, Any], ids: Any, logps: Any) -> dict[str, Any]:
        content = [self._logprob(i, logp) for i, logp in zip(ids, logps, strict=False)]
        told = {"content": content, "refusal": None} if self.logprobs else None
        return {"index": choice.index, **said, "logprobs": told, "finish_reason": choice.finish_reason}

    def _logprob(self, token: int, logp: float) -> dict[str, Any]:
        text = self.token(token)
        return {"token": text, "logprob": logp, "bytes": list(text.encode()), "top_logprobs": []}


def _call(call: ToolCall) -> dict[str, Any]:
    said = {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": said}


@dataclass
class TextShape:
    """text_completion: text, or pieces of it. echo: the prompt of each choice, where it is to come before the answer."""

    token: Token
    logprobs: bool
    echo: dict[int, str] = field(default_factory=dict)
    kind: str = "text_completion"
    prefix: str = "cmpl"
    _written: dict[int, int] = field(default_factory=dict)

    def whole(self, choice: Choice) -> dict[str, Any]:
        prompt = self.echo.get(choice.index, "")
        return self._choice(choice, prompt + choice.text, choice.ids, choice.logps, len(prompt))

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        prompt = self.echo.get(choice.index, "")
        self._written[choice.index] = len(prompt)
        return {"index": choice.index, "text": prompt, "logprobs": None, "finish_reason": None} if prompt else None

    def piece(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        return self._choice(choice, delta.text, delta.ids, delta.logps, self._written[choice.index])

    def _choice(self, choice: Choice, text: str, ids: Any, logps: Any, start: int) -> dict[str, Any]:
        told = None
        if self.logprobs:
            tokens = [self.token(i) for i, _ in zip(ids, logps, strict=False)]
            offsets = []
            for token in tokens:
                offsets.append(start)
                start += len(token)
            self._written[choice.index] = start
            told = {"tokens": tokens, "token_logprobs": list(logps), "top_logprobs": None, "text_offset": offsets}
        return {"index": choice.index, "text": text, "logprobs": told, "finish_reason": choice.finish_reason}
