"""JSON Lines: an index of where each line begins; lines are parsed when they are asked for."""

from __future__ import annotations

from array import array

from tk.contracts import Row, RowSet
from tk.errors import DataError
from tk_files.content import Content, check_object, parse_json


class JsonLines:
    """Reader of one JSON object a line. Blank lines are no rows, and count as lines."""

    def open(self, path: str) -> RowSet:
        return _Lines(path)


class _Lines:
    def __init__(self, path: str) -> None:
        self.content = Content(path)
        self.fingerprint = self.content.fingerprint()
        self.starts, self.ends, self.numbers = array("q"), array("q"), array("q")
        self._index()
        if not self.numbers:
            raise DataError(f"{path}:1: the file holds no rows, only blank lines.")

    def _index(self) -> None:
        handle, offset = self.content.handle, self.content.start
        handle.seek(offset)
        for number, line in enumerate(handle, 1):
            if not line.isspace():
                self.starts.append(offset)
                self.ends.append(offset + len(line))
                self.numbers.append(number)
            offset += len(line)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Row:
        origin = f"{self.content.path}:{self.numbers[index]}"
        raw = self.content.slice(self.starts[index], self.ends[index]).rstrip()
        return Row(check_object(parse_json(raw, origin), origin), origin)
