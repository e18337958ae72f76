"""Formats with a column for each part of the exchange: Alpaca, prompt/completion, plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tk.sample import Message, Sample
from tk_formats.media import with_media
from tk_formats.rows import extras, need, text
from tk_formats.turns import as_list, check_order, read_messages, read_tools, with_system


class Alpaca:
    """{"instruction", "input", "output", "system", "history": [[question, answer], …]} (Stanford Alpaca).

    The prompt is instruction and input, with a line break between them where both are there.
    """

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        need(row, "instruction")
        prompt = "\n".join(part for part in (text(row, "instruction"), text(row, "input")) if part)
        if not prompt.strip():
            raise ValueError("instruction and input are empty")
        turns = (*_history(row), Message("user", prompt))
        if "output" in row:
            turns += (Message("assistant", text(row, "output", empty=False)),)
        return Sample(
            messages=with_system(turns, row.get("system")),
            tools=read_tools(row.get("tools")),
            label=row.get("label"),
            extras=extras(row, "instruction", "input", "output", "system", "history", "tools", "label"),
        )


class PromptCompletion:
    """{"prompt", "completion"}: both text, or both lists of messages (a completion's are the assistant's and tools').

    Without a completion it is a prompt to be answered. Only the completion is trained, unless a message of the prompt asks for it (`loss`).
    """

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        prompt = need(row, "prompt")
        completion = need(row, "completion") if "completion" in row else type(prompt)()
        plain = isinstance(prompt, str) and isinstance(completion, str)
        if plain:
            turns: tuple[Message, ...] = (Message("user", text(row, "prompt", empty=False)),)
            if "completion" in row:
                turns += (Message("assistant", text(row, "completion", empty=False)),)
        elif "completion" not in row:
            turns = tuple(map(_untrained, read_messages(prompt, "prompt")))
        elif isinstance(prompt, str) or isinstance(completion, str):
            raise ValueError("prompt and completion must both be text, or both be lists of messages")
        else:
            answer = read_messages(completion, "completion")
            if not any(message.role == "assistant" for message in answer):
                raise ValueError("completion has no assistant message")
            turns = tuple(map(_untrained, read_messages(prompt, "prompt"))) + answer
            check_order(turns, "prompt and completion")
        return Sample(
            messages=with_system(turns, row.get("system")),
            tools=read_tools(row.get("tools")),
            label=row.get("label"),
            extras=extras(row, "prompt", "completion", "system", "tools", "label"),
            plain=plain,
        )


class Text:
    """{"text"}: text as it is, without a chat format."""

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        return Sample(text=text(row, "text", empty=False), label=row.get("label"), extras=extras(row, "text", "label"))


def _untrained(message: Message) -> Message:
    if message.role == "assistant" and message.loss is None:
        return replace(message, loss=0.0)
    return message


def _history(row: Mapping[str, Any]) -> Iterator[Message]:
    value = row.get("history")
    for i, pair in enumerate(as_list(value, "history") if value not in (None, "") else ()):
        exchange = as_list(pair, f"history[{i}]") if not isinstance(pair, str) else ()
        if len(exchange) != 2 or not all(isinstance(said, str) and said.strip() for said in exchange):
            raise ValueError(f"history[{i}] must be a question and an answer, both text")
        yield Message("user", exchange[0])
        yield Message("assistant", exchange[1])
