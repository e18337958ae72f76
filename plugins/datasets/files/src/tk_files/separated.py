"""CSV and TSV: an index of where each record begins; records are split when they are asked for."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator

from tk.contracts import Row, RowSet
from tk.errors import DataError
from tk_files.content import Content, decode
from tk_files.options import CsvOptions


class Csv:
    """Reader of a header line and one row a record (RFC 4180). Cells are text; line breaks may stand in quotes."""

    def __init__(self, options: CsvOptions) -> None:
        self.options = options

    def open(self, path: str) -> RowSet:
        tab = path.lower().endswith(".tsv")
        return _Records(path, self.options.delimiter or ("\t" if tab else ","), self.options.quote)


class _Records:
    def __init__(self, path: str, delimiter: str, quote: str) -> None:
        self.path, self.delimiter, self.quote = path, delimiter, quote
        self.content = Content(path)
        self.fingerprint = self.content.fingerprint()
        self.starts, self.ends, self.lines = array("q"), array("q"), array("q")
        self.columns: list[str] = []
        self._index()
        if not self.lines:
            raise DataError(f"{path}:1: the file holds a header and no rows.")

    def _index(self) -> None:
        """Find where records begin. Raises DataError where a quote is not closed."""
        offsets = array("q", [self.content.start])
        records = self._reader(self._lines(offsets))
        first = 1
        while True:
            start = offsets[first - 1]
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{self.path}:{first}: not a CSV record: {_explained(error)}") from error
            last = len(offsets) - 1
            if cells and not self.columns:
                self.columns = _header(cells, f"{self.path}:{first}")
            elif cells:
                self.starts.append(start)
                self.ends.append(offsets[last])
                self.lines.append(first)
            first = last + 1

    def _lines(self, offsets: array[int]) -> Iterator[str]:
        """Lines of text; notes the offset behind each one, which the csv reader takes one by one."""
        self.content.handle.seek(self.content.start)
        for number, raw in enumerate(self.content.handle, 1):
            offsets.append(offsets[-1] + len(raw))
            yield decode(raw, f"{self.path}:{number}")

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        try:
            return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, strict=True)
        except TypeError as error:
            raise DataError(f"{self.path}: CSV options: {error}.") from error

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Row:
        origin = f"{self.path}:{self.lines[index]}"
        text = self.content.slice(self.starts[index], self.ends[index]).decode()
        cells = next(self._reader(iter([text])))
        if len(cells) != len(self.columns):
            raise DataError(
                f"{origin}: {len(cells)} cells, where the header has {len(self.columns)} columns "
                f"({', '.join(self.columns)})."
            )
        return Row(dict(zip(self.columns, cells, strict=True)), origin)


def _header(cells: list[str], origin: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    for position, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{origin}: column {position} of the header has no name.")
        if names.count(name) > 1:
            raise DataError(f"{origin}: the header has two columns named {name!r}.")
    return names


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "field limit" in text:
        return f"a cell is longer than {csv.field_size_limit()} characters (is a quote not closed?): use JSON Lines."
    if "unexpected end" in text:
        return "a quote is opened and not closed."
    return f"{text}."
