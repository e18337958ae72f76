"""What an assistant has said, out of its tokens: text, and calls of tools where they are JSON after an opening."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tk.sample import Message, ToolCall

_DECODER = json.JSONDecoder()

HALF = "\N{REPLACEMENT CHARACTER}"
"""What half of a character is decoded as."""


@dataclass(frozen=True)
class CallFormat:
    """How calls are written. opening: before the first; "" where an answer that calls is nothing but the object.

    name, arguments: keys of the object.
    """

    opening: str
    name: str = "name"
    arguments: str = "arguments"

    def read(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """What is said besides, and the calls; all of the text, and none, where they are not whole."""
        at = text.find(self.opening) if self.opening else len(text) - len(text.lstrip())
        if at < 0 or (not self.opening and not text.startswith("{", at)):
            return text, ()
        try:
            calls = tuple(map(self._call, _objects(text, at + len(self.opening))))
        except ValueError:
            return text, ()
        return (text[:at].rstrip(), calls) if calls else (text, ())

    def before(self, text: str) -> int:
        """How much of a text that goes on is sure to stand before any call."""
        if not self.opening:
            return 0 if text.lstrip()[:1] in ("", "{") else len(text)
        at = text.find(self.opening)
        if at < 0:
            at = len(text) - _begun(text, self.opening)
        return len(text[:at].rstrip())

    def _call(self, found: Mapping[str, Any]) -> ToolCall:
        name, arguments = found.get(self.name), found.get(self.arguments, {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise ValueError(f"{found} is no call")
        return ToolCall(name, arguments)


def said(
    tokenizer: Any, ids: Sequence[int], ends: Collection[int], form: CallFormat | None, *, more: bool = False
) -> Message:
    """The assistant's message of sampled tokens. ends: tokens that end a turn, one of which may be the last.

    more: others are to come: only what is sure to be text.
    """
    own = list(ids[:-1]) if ids and ids[-1] in ends else list(ids)
    if form is not None:  # what opens a call may be a special token
        written = tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if more:
            return Message("assistant", _shown(tokenizer, written[: form.before(written.rstrip(HALF))]))
        text, calls = form.read(written)
        if calls:
            return Message("assistant", _shown(tokenizer, text), calls)
    text = tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Message("assistant", text.rstrip(HALF) if more else text)


def _shown(tokenizer: Any, text: str) -> str:
    """A text without special tokens."""
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text


def _begun(text: str, opening: str) -> int:
    """Length of the longest end of a text that an opening begins with."""
    return next((n for n in range(min(len(opening) - 1, len(text)), 0, -1) if text.endswith(opening[:n])), 0)


def object_around(text: str, word: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects that hold the last occurrence of a word, with where they start, the innermost first."""
    at = text.rfind(word)
    for start in range(at - 1, -1, -1):
        if text[start] == "{":
            try:
                yield start, _DECODER.raw_decode(text, start)[0]
            except ValueError:
                continue


def _objects(text: str, at: int) -> Iterator[dict[str, Any]]:
    """JSON objects in a text, one after another. Raises ValueError for one that is not whole."""
    while (start := text.find("{", at)) >= 0:
        found, at = _DECODER.raw_decode(text, start)
        yield found
