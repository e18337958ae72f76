"""Parquet: rows are converted a slice at a time, from one row group that is kept."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any

import pyarrow
import pyarrow.parquet

from tk.contracts import Row, RowSet
from tk.errors import DataError
from tk_files.content import Content

_SLICE = 1024


class Parquet:
    """Reader of Parquet files. A row's "line" is its number in the file, from 1."""

    def open(self, path: str) -> RowSet:
        return _Groups(path)


class _Groups:
    def __init__(self, path: str) -> None:
        self.path = path
        self.content = Content(path, text=False)
        self.fingerprint = self.content.fingerprint()
        self.content.handle.seek(0)
        try:
            self.file = pyarrow.parquet.ParquetFile(self.content.handle)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a whole Parquet file (truncated, or of another kind): {error}") from error
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.firsts: list[int] = [0, *accumulate(counts)]
        if not len(self):
            raise DataError(f"{path}: the file holds no rows.")
        self._table: tuple[int, Any] = (-1, None)
        self._slice: tuple[int, int, list[dict[str, Any]]] = (0, 0, [])

    def __len__(self) -> int:
        return self.firsts[-1]

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end, rows = self._slice
        if not start <= index < end:
            self._slice = start, end, rows = self._converted(index)
        return Row(rows[index - start], f"{self.path}:{index + 1}")

    def _converted(self, index: int) -> tuple[int, int, list[dict[str, Any]]]:
        """The rows around `index`, of one row group, as Python values: (first, end, rows)."""
        group = bisect_right(self.firsts, index) - 1
        first = self.firsts[group]
        if self._table[0] != group:
            try:
                self._table = (group, self.file.read_row_group(group))
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{self.path}:{first + 1}: the rows from here on cannot be read: {error}") from error
        offset = (index - first) // _SLICE * _SLICE
        rows = self._table[1].slice(offset, _SLICE).to_pylist()
        return first + offset, first + offset + len(rows), rows
