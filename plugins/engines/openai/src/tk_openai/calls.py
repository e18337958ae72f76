"""Calls of tools on their way to an endpoint, and from it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

from tk.errors import RequestError, UsageError
from tk.sample import Message, ToolCall


class Named:
    """Calls by the names that the protocol wants: those without one get one, and their answers, in order, the same."""

    def __init__(self) -> None:
        self._numbers, self._open = count(), deque[str]()

    def made(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """The calls of a message; they are answered next."""
        self._open = deque(call.id or f"call_{next(self._numbers)}" for call in calls)
        return [
            {"id": name, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
            for name, call in zip(self._open, calls, strict=True)
        ]

    def answered(self, message: Message) -> str:
        """The call that a tool's message answers. Raises UsageError where there is none left."""
        if message.tool_call_id:
            if message.tool_call_id in self._open:
                self._open.remove(message.tool_call_id)
            return message.tool_call_id
        if not self._open:
            raise UsageError("A message of a tool answers no call: there is none before it, or it has its answer.")
        return self._open.popleft()


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class Calls:
    """Those of one answer, which come in pieces."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}

    def add(self, pieces: Iterable[ChoiceDeltaToolCall]) -> None:
        for piece in pieces:
            call = self._calls.setdefault(piece.index, _Call())
            call.id += piece.id or ""
            if piece.function is not None:
                call.name += piece.function.name or ""
                call.arguments += piece.function.arguments or ""

    def whole(self) -> tuple[ToolCall, ...]:
        """All of them. Raises RequestError where the arguments of one are no JSON object."""
        return tuple(_whole(self._calls[index]) for index in sorted(self._calls))


def _whole(call: _Call) -> ToolCall:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise RequestError(f"The arguments of a call of {call.name} are no JSON object: {call.arguments!r}.")
    return ToolCall(call.name, arguments, call.id)
