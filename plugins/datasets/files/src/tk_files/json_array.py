"""A JSON file that is one array of objects; elements are found once and parsed when they are asked for."""

from __future__ import annotations

import json
from array import array

from tk.contracts import Row, RowSet
from tk.errors import DataError
from tk_files.content import Content, check_object, decode, parse_json

_SPACE = " \t\n\r"


class JsonArray:
    """Reader of `[{…}, {…}]`. The file's text stays in memory, its rows do not."""

    def open(self, path: str) -> RowSet:
        return _Elements(path)


class _Elements:
    def __init__(self, path: str) -> None:
        content = Content(path)
        self.path, self.fingerprint = path, content.fingerprint()
        size = content.handle.seek(0, 2)
        self.text = decode(content.slice(content.start, size), f"{path}:1")
        self.starts, self.ends, self.lines = array("q"), array("q"), array("q")
        self._index()
        if not self.lines:
            raise DataError(f"{path}:1: the array holds no rows.")

    def _index(self) -> None:
        """Walk over the array. Raises DataError with line and column of what is not JSON."""
        decoder, text, line, seen = json.JSONDecoder(), self.text, 1, 0
        at = self._expect("[", self._skip(0))
        while text[at : at + 1] != "]":
            line, seen = line + text.count("\n", seen, at), at
            try:
                _, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                raise self._mistake(error.pos, error.msg) from None
            except RecursionError:
                raise self._mistake(at, "it is nested too deeply") from None
            self.starts.append(at)
            self.ends.append(end)
            self.lines.append(line)
            at = self._skip(end)
            if text[at : at + 1] != "]":
                at = self._expect(",", at)
                if text[at : at + 1] == "]":
                    raise self._mistake(at, "a comma stands before the array's end")
        rest = self._skip(at + 1)
        if rest < len(text):
            raise self._mistake(rest, "something stands after the array")

    def _skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in _SPACE:
            at += 1
        return at

    def _expect(self, mark: str, at: int) -> int:
        """The position after `mark` and the space behind it."""
        if self.text[at : at + 1] == mark:
            return self._skip(at + 1)
        if mark == "[" and self.text[at : at + 1] == "{":
            raise DataError(
                f"{self.path}:1: the file must be an array of rows [{{…}}, …], and begins with an object: is it one "
                f"object a line? Then name it .jsonl."
            )
        if mark == "[":
            raise self._mistake(at, "the file must be an array of rows [{…}, …]")
        raise self._mistake(at, f"expecting {mark!r} or the array's end")

    def _mistake(self, position: int, problem: str) -> DataError:
        line = self.text.count("\n", 0, position) + 1
        column = position - self.text.rfind("\n", 0, position)
        return DataError(f"{self.path}:{line}: invalid JSON at column {column}: {problem}.")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Row:
        origin = f"{self.path}:{self.lines[index]}"
        raw = self.text[self.starts[index] : self.ends[index]].encode()
        value = parse_json(raw, origin)
        return Row(check_object(value, origin), origin)
