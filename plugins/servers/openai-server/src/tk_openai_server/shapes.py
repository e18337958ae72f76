"""How chat completions and text completions are written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from tk.contracts import AnswerReader, Delta, Template, Top
from tk.sample import ToolCall
from tk_openai_server.generation import Choice

LEAST = -9999.0
"""What is written for the log-probability of a token that cannot be: JSON has no infinity."""

Token = Callable[[int], str]
"""The text of a single token."""

Bytes = Callable[[int], bytes | None]
"""Its bytes, where they are known."""


@dataclass
class _Read:
    """A choice's text on its way. seen: tokens that were read; sure: characters that are no call; told: those that are out."""

    reader: AnswerReader
    seen: int = 0
    sure: int = 0
    told: int = 0

    def more(self, choice: Choice) -> str:
        """What can be told now, of the text that the engine holds back until it is whole, and cuts before a stop."""
        self.sure += len(self.reader.push(choice.ids[self.seen :]))
        self.seen = len(choice.ids)
        told, self.told = self.told, max(self.told, min(self.sure, len(choice.text)))
        return choice.text[told : self.told]


@dataclass
class ChatShape:
    """chat.completion: a message, or deltas of one.

    template: where tools may be called, what reads an answer. Its text is streamed until a call may begin; calls come whole.
    single: whether of several calls only the first counts.
    """

    token: Token
    bytes: Bytes
    logprobs: bool
    template: Template | None = None
    single: bool = False
    kind: str = "chat.completion"
    prefix: str = "chatcmpl"
    _read: dict[int, _Read] = field(default_factory=dict)
    """By choice, where calls may come."""

    def whole(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", **self._said(choice, choice.text), "refusal": None}
        return self._choice(choice, {"message": message}, choice)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        said = {"role": "assistant", "content": ""}
        if self.template is not None:
            self._read[choice.index] = _Read(self.template.reader())
        return {"index": choice.index, "delta": said, "logprobs": None, "finish_reason": None}

    def piece(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        if self.template is None:
            said = {"content": delta.text} if delta.text else {}
        elif delta.finish_reason:
            said = self._said(choice, choice.text)
            for index, call in enumerate(said.get("tool_calls", ())):
                call["index"] = index
            left = (said.pop("content") or "")[self._read[choice.index].told :]
            said = {**({"content": left} if left else {}), **said}
        else:
            certain = self._read[choice.index].more(choice)
            said = {"content": certain} if certain else {}
            if not said and not self.logprobs:
                return None
        return self._choice(choice, {"delta": said}, delta)

    def _said(self, choice: Choice, text: str) -> dict[str, Any]:
        """Content, or calls of tools; the finish reason tells which."""
        message = self.template.read(choice.ids) if self.template is not None else None
        if message is None or not message.tool_calls:
            return {"content": text}
        choice.finish_reason = "tool_calls"
        calls = message.tool_calls[:1] if self.single else message.tool_calls
        return {"content": message.text or None, "tool_calls": [_call(call) for call in calls]}

    def _choice(self, choice: Choice, said: dict[str, Any], told: Choice | Delta) -> dict[str, Any]:
        """told: whose log-probabilities these are."""
        logprobs = None
        if self.logprobs:
            top = told.top or [()] * len(told.ids)
            each = zip(told.ids, told.logps, top, strict=False)
            content = [{**self._logprob(i, p), "top_logprobs": [self._logprob(*t) for t in top]} for i, p, top in each]
            logprobs = {"content": content, "refusal": None}
        return {"index": choice.index, **said, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprob(self, token: int, logp: float) -> dict[str, Any]:
        found = self.bytes(token)
        told = None if found is None else list(found)
        return {"token": self.token(token), "logprob": max(logp, LEAST), "bytes": told}


def _call(call: ToolCall) -> dict[str, Any]:
    said = {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": said}


@dataclass(frozen=True)
class Echo:
    """A prompt that is to come before its answer. ids: its tokens, where log-probabilities are told."""

    text: str = ""
    ids: Sequence[int] = ()


@dataclass
class TextShape:
    """text_completion: text, or pieces of it. echo: of each choice, where it was asked for. top: how many of the likeliest."""

    token: Token
    logprobs: bool
    top: int = 0
    echo: dict[int, Echo] = field(default_factory=dict)
    kind: str = "text_completion"
    prefix: str = "cmpl"
    _written: dict[int, int] = field(default_factory=dict)

    def whole(self, choice: Choice) -> dict[str, Any]:
        echo = self._echo(choice)
        told = _joined(self._prompt(choice), self._told(choice, len(echo.text))) if self.logprobs else None
        return self._choice(choice, echo.text + choice.text, told)

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        echo = self._echo(choice)
        self._written[choice.index] = len(echo.text)
        if not echo.text:
            return None
        told = self._prompt(choice) if self.logprobs else None
        return {**self._choice(choice, echo.text, told), "finish_reason": None}

    def piece(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        told = self._told(delta, self._written[choice.index]) if self.logprobs else None
        self._written[choice.index] += sum(map(len, told["tokens"])) if told else 0
        return self._choice(choice, delta.text, told)

    def _echo(self, choice: Choice) -> Echo:
        return self.echo.get(choice.index, Echo())

    def _choice(self, choice: Choice, text: str, told: dict[str, Any] | None) -> dict[str, Any]:
        return {"index": choice.index, "text": text, "logprobs": told, "finish_reason": choice.finish_reason}

    def _told(self, said: Choice | Delta, start: int) -> dict[str, Any]:
        return self._logprobs(said.ids, said.logps, said.top, start)

    def _prompt(self, choice: Choice) -> dict[str, Any]:
        """Of the prompt's tokens; nothing stands before the first."""
        ids, prompt = self._echo(choice).ids, choice.prompt
        if prompt is None:
            return self._logprobs((), (), (), 0)
        return self._logprobs(ids, (None, *prompt.logps), (None, *prompt.top) if prompt.top else (), 0)

    def _logprobs(self, ids: Any, logps: Any, top: Any, start: int) -> dict[str, Any]:
        tokens = [self.token(i) for i, _ in zip(ids, logps, strict=False)]
        likeliest = None
        if self.top:
            each = zip(tokens, logps, top or [()] * len(tokens), strict=True)
            likeliest = [None if p is None else self._likeliest(token, p, found) for token, p, found in each]
        return {
            "tokens": tokens,
            "token_logprobs": [None if p is None else max(p, LEAST) for p in logps],
            "top_logprobs": likeliest,
            "text_offset": list(accumulate(map(len, tokens), initial=start))[:-1],
        }

    def _likeliest(self, token: str, logp: float, found: Top) -> dict[str, float]:
        """The likeliest by their texts, and the token itself; of several that read alike, the likeliest."""
        told: dict[str, float] = {}
        for text, value in [*((self.token(i), value) for i, value in found), (token, max(logp, LEAST))]:
            told.setdefault(text, value)
        return told


def _joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {name: None if b[name] is None else a[name] + b[name] for name in b}
