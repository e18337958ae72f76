"""Private-use characters as marks in rendered text: they survive a template's handling and are taken out afterwards."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain

from tk.errors import TkError

_PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


def unused_marks(*texts: str) -> Iterator[str]:
    """Private-use characters that none of the texts contains, each once."""
    present = set().union(*texts)
    yield from (mark for mark in map(chr, chain(*_PRIVATE_USE)) if mark not in present)
    raise TkError("The text uses up Unicode's private-use characters; none is left to mark places with.")


class Marked:
    """A text that holds marks, the text without them, and where they stood.

    plain: the text without marks. places: mark -> its offsets in `plain`, ascending.
    """

    def __init__(self, text: str, marks: Iterable[str]) -> None:
        wanted = frozenset(marks)
        self._at = [i for i, char in enumerate(text) if char in wanted] if wanted else []
        self.places: dict[str, list[int]] = {}
        for before, i in enumerate(self._at):
            self.places.setdefault(text[i], []).append(i - before)
        self.plain = text.translate(dict.fromkeys(map(ord, wanted))) if self._at else text

    def unmarked(self, offset: int) -> int:
        """Offset in the marked text -> offset in `plain`."""
        return offset - bisect_left(self._at, offset)
