"""Text of tokens that arrive one by one: whole characters only, and cut before a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decode(tokenizer: Any, ids: Sequence[int], *, special: bool = False) -> str:
    """Text, without special tokens unless they are wanted."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    return text


class TextStream:
    """Pieces of text as tokens are pushed. What may be half of a character or of a stop string is held back.

    stopped: a stop string has come up; nothing more comes out. special: whether special tokens are text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, special: bool = False) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._stop = [s for s in stop if s]
        self._ids: list[int] = []
        self._context = 0  # tokens decoded again with new ones, since some tokenizers' tokens depend on their left
        self._known = 0  # tokens whose text is out
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain."""
        if self.stopped:
            return ""
        self._ids.append(token)
        return self._release(self._new(final=False), final=False)

    def finish(self) -> str:
        """The rest, incomplete characters as they are."""
        if self.stopped:
            return ""
        return self._release(self._new(final=True), final=True)

    def _new(self, *, final: bool) -> str:
        known = decode(self._tokenizer, self._ids[self._context : self._known], special=self._special)
        text = decode(self._tokenizer, self._ids[self._context :], special=self._special)
        if len(text) <= len(known) or (text.endswith(REPLACEMENT) and not final):
            return ""
        self._context, self._known = self._known, len(self._ids)
        return text[len(known) :]

    def _release(self, new: str, *, final: bool) -> str:
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if final else self._possible_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
