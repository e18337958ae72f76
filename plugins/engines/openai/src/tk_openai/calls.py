"""Calls of tools on their way to an endpoint, and from it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

from tk.errors import UsageError
from tk.sample import Message, ToolCall


class Named:
    """Calls by the names that the protocol wants: those without one get one, and their answers, in order, the same."""

    def __init__(self, messages: Iterable[Message]) -> None:
        taken = {call.id for message in messages for call in message.tool_calls}
        self._free = (name for name in map("call_{}".format, count()) if name not in taken)
        self._open = deque[str]()

    def made(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """The calls of a message; they are answered next."""
        self._open = deque(call.id or next(self._free) for call in calls)
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

    def parsed(self) -> ToolCall | None:
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError:
            return None
        return ToolCall(self.name, arguments, self.id) if isinstance(arguments, dict) else None


class Calls:
    """Those of one answer, which come in pieces."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._latest: dict[int, _Call] = {}

    def add(self, pieces: Iterable[ChoiceDeltaToolCall]) -> None:
        """Another id begins another call, also where an endpoint gives all the same index."""
        for piece in pieces:
            call = self._latest.get(piece.index)
            if call is None or (piece.id and call.id and piece.id != call.id):
                call = self._latest[piece.index] = _Call()
                self._calls.append(call)
            call.id = piece.id or call.id
            if piece.function is not None:
                call.name = call.name or piece.function.name or ""
                call.arguments += piece.function.arguments or ""

    def whole(self) -> tuple[tuple[ToolCall, ...], str]:
        """The calls; and as text those that are none, since their arguments are cut off or no JSON object."""
        read = [(call, call.parsed()) for call in self._calls]
        rest = [f'{{"name": "{call.name}", "arguments": {call.arguments}' for call, made in read if made is None]
        return tuple(made for _, made in read if made is not None), "".join(rest)
