"""Conversations through a Jinja chat template: transformers' renderer, with errors in the user's terms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from tk.contracts import MediaProcessor
from tk.errors import DataError, UsageError
from tk.sample import Message, Sample
from tk_jinja.options import JinjaOptions
from tk_text.media import has_media, marked, split
from tk_text.messages import call_of, located

Chat = list[dict[str, Any]]

FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What a template's own code may raise."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Renderer:
    """Renders with one template and its variables. Compiled templates are cached by transformers."""

    def __init__(self, tokenizer: Any, options: JinjaOptions, *, takes_media: bool = False) -> None:
        self._tokenizer, self._takes_media = tokenizer, takes_media
        self._override = _template_text(options.chat_template)
        self.has_source = self._override is not None or bool(tokenizer.chat_template)
        """Whether there is a template: a checkpoint without one takes plain text."""
        thinking = {} if options.enable_thinking is None else {"enable_thinking": options.enable_thinking}
        self.parts = False
        """Whether contents are given as lists of parts even where they are text alone."""
        self._variables = {**tokenizer.special_tokens_map, **thinking, **options.variables}

    def source(self, tools: Sequence[Any] | None) -> str:
        """The Jinja text; some checkpoints have another one for conversations with tools. Raises UsageError for none."""
        if not self.has_source:
            raise UsageError(
                "The checkpoint has no chat template, which conversations need. Choose a format with --template chatml (or "
                "another of `tk templates list`), or give one with --template.chat-template FILE."
            )
        try:
            return self._tokenizer.get_chat_template(self._override, tools)
        except ValueError as error:
            raise UsageError(f"{error} Give one with --template.chat-template FILE.") from error

    def render(self, chat: Chat, tools: Sequence[Any] | None = None, *, generation: bool = False) -> str:
        """The text of a conversation. Raises one of FAILURES where the template does."""
        texts, _ = render_jinja_template(
            [self._given(chat)],
            tools,
            chat_template=self.source(tools),
            add_generation_prompt=generation,
            **self._variables,
        )
        return texts[0]

    def regions(self, chat: Chat, tools: Sequence[Any] | None = None) -> list[tuple[int, int]] | None:
        """The spans that the template itself puts in {% generation %} blocks; None where it has no such blocks."""
        source = self.source(tools)
        if not _GENERATION.search(source):
            return None
        _, spans = render_jinja_template(
            [self._given(chat)], tools, chat_template=source, return_assistant_tokens_mask=True, **self._variables
        )
        return list(spans[0])

    def _given(self, chat: Chat) -> Chat:
        """The conversation with media as the parts that templates know."""
        return [{**m, "content": self._parts(m["content"])} if self._has_parts(m["content"]) else m for m in chat]

    def _has_parts(self, content: str) -> bool:
        return self.parts or (self._takes_media and has_media(content))

    def _parts(self, content: str) -> list[dict[str, str]]:
        pieces = split(content, self._takes_media)
        return [{"type": type, "text": text} if type == "text" else {"type": type} for type, text in pieces]


def _template_text(given: str | None) -> str | None:
    if given is None or "{" in given:
        return given
    path = Path(given)
    if not path.is_file():
        raise UsageError(
            f"template.chat_template: there is no file {given!r}, and it is no Jinja text (which has braces)."
        )
    return path.read_text(encoding="utf-8")


def chat_of(
    messages: Sequence[Message], origin: str = "", *, media: MediaProcessor | None = None, json_arguments: bool = False
) -> Chat:
    """Messages as the dicts that chat templates read, contents as text with marks for media.

    json_arguments: a call's arguments as text.
    """
    return [_message(message, origin, media, json_arguments) for message in messages]


def _message(message: Message, origin: str, media: MediaProcessor | None, json_arguments: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": marked(message, media, origin)}
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [_call(call, json_arguments) for call in message.tool_calls]
    if message.name:
        out["name"] = message.name
    if message.tool_call_id:
        out["tool_call_id"] = message.tool_call_id
    return out


def _call(call: Any, json_arguments: bool) -> dict[str, Any]:
    function = dict(call_of(call))
    if json_arguments:
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    else:
        function["arguments"] = dict(function["arguments"])
    return {"type": "function", "function": function} | ({"id": call.id} if call.id else {})


def refused(sample: Sample, error: BaseException) -> DataError:
    """A template's failure as an error about the row."""
    roles = ", ".join(message.role for message in sample.messages)
    text = (
        f"the chat template refuses this conversation ({roles}): {error}. "
        "Change the row, or choose another format, e.g. --template chatml."
    )
    return DataError(located(sample.origin, text))


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with `change` applied to every string in it, keys of mappings included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(item, change) for item in value]
    return value


def strings(value: Any) -> Iterator[str]:
    """Every string in a nested value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)
