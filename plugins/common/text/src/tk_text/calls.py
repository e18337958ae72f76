"""What an assistant has said, out of its tokens: text, and calls of tools where they are JSON after an opening."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tk.sample import Message, ToolCall
from tk_text.stream import TextStream, decode

_DECODER = json.JSONDecoder()


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

    def _call(self, found: Mapping[str, Any]) -> ToolCall:
        name, arguments = found.get(self.name), found.get(self.arguments, {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise ValueError(f"{found} is no call")
        return ToolCall(name, arguments)


def said(tokenizer: Any, ids: Sequence[int], ends: Collection[int], form: CallFormat | None) -> Message:
    """The assistant's message of sampled tokens. ends: tokens that end a turn, one of which may be the last."""
    own = list(ids[:-1]) if ids and ids[-1] in ends else list(ids)
    if form is not None:  # what opens a call may be a special token
        text, calls = form.read(decode(tokenizer, own, special=True))
        if calls:
            return Message("assistant", _shown(text, tokenizer.all_special_tokens), calls)
    return Message("assistant", decode(tokenizer, own))


class SaidReader:
    """What `said` makes of tokens that come one by one, as far as it is sure (tk.contracts.AnswerReader).

    What may be the beginning of a call is held back, with the white space before it.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int], form: CallFormat | None) -> None:
        opening, special = form.opening if form else "", tokenizer.all_special_tokens
        self._marks = [token for token in special if token in opening]
        self._unseen = {*ends, *tokenizer.convert_tokens_to_ids([token for token in special if token not in opening])}
        self._text = TextStream(tokenizer, [opening], special=True)
        self._opening, self._held = opening, ""
        self._undecided = form is not None and not opening  # a call without an opening is all of the answer
        self._calls = False

    def push(self, ids: Sequence[int]) -> str:
        """As in the contract."""
        text = self._held + "".join(self._text.push(token) for token in ids if token not in self._unseen)
        if self._undecided and text.lstrip():
            self._undecided, self._calls = False, text.lstrip().startswith("{")
        if self._calls:
            return ""
        sure = 0 if self._undecided else len(text.rstrip()) if self._opening else len(text)
        self._held = text[sure:]
        return _shown(text[:sure], self._marks)


def _shown(text: str, special: Sequence[str]) -> str:
    """A text without special tokens."""
    for token in special:
        text = text.replace(token, "")
    return text


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
