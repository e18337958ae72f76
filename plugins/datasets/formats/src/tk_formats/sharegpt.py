"""ShareGPT conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.sample import Message, Sample
from tk_formats.media import with_media
from tk_formats.rows import extras, need
from tk_formats.turns import (
    as_list,
    check_content,
    check_order,
    parse,
    read_call,
    read_content,
    read_loss,
    read_message,
    read_role,
    read_tools,
    type_of,
    with_system,
)

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALLS = ("function_call", "tool_call")
"""`from` of turns whose value is the assistant's call: {"name", "arguments"} as an object or JSON text, or a list."""


class ShareGpt:
    """{"conversations": [{"from", "value"}, …], "system", "tools"}; turns may also have role and content."""

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        column = "conversation" if "conversation" in row and "conversations" not in row else "conversations"
        messages = read_turns(need(row, column), column)
        check_order(messages, column)
        return Sample(
            messages=with_system(messages, row.get("system")),
            tools=read_tools(row.get("tools")),
            label=row.get("label"),
            extras=extras(row, column, "system", "tools", "label"),
        )


def read_turns(value: Any, what: str) -> tuple[Message, ...]:
    """Messages of a list of turns, each with from and value, or with role and content."""
    turns = as_list(value, what)
    if not turns:
        raise ValueError(f"{what} is empty")
    return tuple(_turn(turn, f"{what}[{i}]") for i, turn in enumerate(turns))


def _turn(turn: Any, what: str) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{what} must be an object with from and value, not {type_of(turn)}")
    if turn.get("from") is None and turn.get("role") is not None:
        return read_message(turn, what)
    if turn.get("from") is None:
        raise ValueError(f"{what} has neither from nor role")
    if turn["from"] in _CALLS:
        return _call(turn, what)
    role = read_role(turn["from"], what, _ROLES)
    where = f"{what} ({turn['from']})"
    content = read_content(turn.get("value"), where)
    check_content(role, content, (), turn, where)
    return Message(role, "" if content is None else content, loss=read_loss(turn, where))


def _call(turn: Mapping[str, Any], what: str) -> Message:
    where = f"{what} ({turn['from']})"
    value = turn.get("value")
    if isinstance(value, str):
        value = parse(value, where)
    calls = value if isinstance(value, (list, tuple)) else (value,)
    if not calls:
        raise ValueError(f"{where} has no call")
    return Message("assistant", tool_calls=tuple(read_call(c, where) for c in calls), loss=read_loss(turn, where))
