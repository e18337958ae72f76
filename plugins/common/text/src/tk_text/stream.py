"""Text of tokens that arrive one by one: whole characters only, and cut before a stop string."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decode(tokenizer: Any, ids: Sequence[int], *, special: bool = False) -> str:
    """Text, without special tokens unless they are wanted."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    return text


def bytes_of(tokenizer: Any, token: int) -> bytes | None:
    """A token's UTF-8; None for part of a character whose bytes the vocabulary does not tell."""
    text = decode(tokenizer, [token], special=True)
    if REPLACEMENT not in text:
        return text.encode()
    written = tokenizer.convert_ids_to_tokens(token)
    fallback = _FALLBACK.fullmatch(written)
    if not fallback and any(character not in _BYTES for character in written):
        return None
    found = bytes.fromhex(fallback[1]) if fallback else bytes(_BYTES[character] for character in written)
    return found if found.decode(errors="replace") == text else None


def _alphabet() -> dict[str, int]:
    """How byte-level vocabularies since GPT-2 write bytes: what is visible in Latin-1 as it is, the rest from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {**{chr(byte): byte for byte in visible}, **{chr(0x100 + i): byte for i, byte in enumerate(others)}}


_BYTES = _alphabet()
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")
"""A byte in vocabularies that write bytes only where they have no other token (SentencePiece)."""


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
