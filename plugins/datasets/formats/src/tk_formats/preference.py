"""Preference pairs: a prompt, a better and a worse answer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from tk.sample import Message, Sample
from tk_formats.media import with_media
from tk_formats.rows import extras, need, text
from tk_formats.sharegpt import read_turns
from tk_formats.turns import check_order, read_messages, read_tools, type_of, with_system

PROMPTS = ("prompt", "messages", "conversations")
READ = (*PROMPTS, "chosen", "rejected", "rejected_response", "rejected_messages", "system", "tools", "label")


class Preference:
    """Pairs in the forms that are in use; answers are text, a message, or a list of messages.

    {"prompt", "chosen", "rejected"} (TRL; the prompt is text or messages) · {"chosen", "rejected"} (whole conversations,
    whose prompt is what they begin with alike) · {"messages" or "conversations", "chosen", "rejected"} ·
    {"messages", "rejected_response"} and {"messages", "rejected_messages"} (ms-swift: the last answer is the better one).
    """

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        if "chosen" in row:
            prompt, chosen, rejected = self._both(row)
        else:
            prompt, chosen, rejected = self._last(row)
        for answer, name in ((chosen, "chosen"), (rejected, "rejected")):
            if not any(message.role == "assistant" for message in answer):
                raise ValueError(f"{name} has no assistant message")
        messages = with_system((*prompt, *chosen), row.get("system"))
        check_order(messages, "the conversation")
        return Sample(
            messages=messages,
            rejected=rejected,
            shared=len(messages) - len(chosen),
            tools=read_tools(row.get("tools")),
            label=row.get("label"),
            extras=extras(row, *READ),
        )

    def _both(self, row: Mapping[str, Any]) -> tuple[tuple[Message, ...], ...]:
        """Prompt and both answers of a row that has a column for each answer."""
        chosen, rejected = _answer(row, "chosen"), _answer(row, "rejected")
        column = next((name for name in PROMPTS if name in row), None)
        if column is not None:
            prompt = _prompt(row, column)
            # whole conversations beside their prompt
            return prompt, *(a[len(prompt) :] if a[: len(prompt)] == prompt else a for a in (chosen, rejected))
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
        prompt = tuple(message for message, _ in pairs)
        if not prompt:
            raise ValueError(
                "chosen and rejected begin differently: name the prompt, in a column 'prompt' or 'messages'"
            )
        return prompt, chosen[len(prompt) :], rejected[len(prompt) :]

    def _last(self, row: Mapping[str, Any]) -> tuple[tuple[Message, ...], ...]:
        """Prompt and both answers of a conversation whose last answer has a worse one in a column of its own."""
        messages = read_messages(need(row, "messages"))
        asked = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1) + 1
        if "rejected_response" in row:
            return messages[:asked], messages[asked:], _answer(row, "rejected_response")
        rejected = read_messages(need(row, "rejected_messages"), "rejected_messages")
        return (
            messages[:asked],
            messages[asked:],
            rejected[asked:] if rejected[:asked] == messages[:asked] else rejected,
        )


def _prompt(row: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    if isinstance(row[column], str):
        return (Message("user", text(row, column, empty=False)),)
    if column == "conversations":
        return read_turns(row[column], column)
    return read_messages(row[column], column)


def _answer(row: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    value = need(row, column)
    if isinstance(value, str):
        return (Message("assistant", text(row, column, empty=False)),)
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, (list, tuple)):
        raise ValueError(f"{column} must be text, a message or a list of messages, not {type_of(value)}")
    return read_turns(turns, column)
