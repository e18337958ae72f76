"""Encoded examples in flat arrays: a few bytes a token, whatever the number of rows."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tk.contracts import Example, Medium
from tk.files import explained

_SMALL = np.iinfo(np.int32)
_JOIN = 4096


class ExampleSet(Sequence[Example]):
    """Examples, stored by column. Lists of numbers come back as 1-D arrays (int32 or int64, float32); the rest as it was.

    Media that stand in the rows themselves (data URLs) lie in a temporary file.
    lengths: tokens of each example, int64. repeated: those that it takes more where no beginning is shared, int64.
    """

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        builder = ExampleSetBuilder()
        builder.extend(examples)
        self._take(builder)

    def _take(self, builder: ExampleSetBuilder) -> None:
        self.lengths: NDArray[np.int64] = np.asarray(builder.lengths, dtype=np.int64)
        self.repeated: NDArray[np.int64] = np.asarray(builder.repeated, dtype=np.int64)
        self._tables = [_Table(terms, rows) for (_, terms), rows in builder.kinds.items()]
        self._table = np.asarray(builder.table, dtype=np.int32)
        self._place = np.asarray(builder.place, dtype=np.int64)
        self._origins = _Origins(builder.origins)
        self._media, self._aside = builder.media, builder.aside

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        values, weights = self._tables[self._table[index]].row(int(self._place[index]))
        media = self._aside.given(self._media.get(index % len(self), ()))
        length, repeated = int(self.lengths[index]), int(self.repeated[index])
        return Example(length, values, weights, self._origins[index], media, repeated)

    def add_value(self, name: str, arrays: Sequence[NDArray[Any]]) -> None:
        """One more value of every example, 1-D arrays in the examples' order."""
        if len(arrays) != len(self):
            raise ValueError(f"{len(arrays)} values {name!r} for {len(self)} examples")
        for number, table in enumerate(self._tables):
            table.columns[name] = _Ragged([arrays[i] for i in np.flatnonzero(self._table == number)])

    @property
    def media_types(self) -> frozenset[str]:
        return frozenset(medium.type for media in self._media.values() for medium in media)

    def origin(self, index: int) -> str:
        """ "file:line" of an example's row."""
        return self._origins[index]

    def totals(self) -> dict[str, float]:
        """The normaliser of each term over all examples."""
        found: dict[str, float] = {}
        for table in self._tables:
            for term, column in table.weights.items():
                found[term] = found.get(term, 0.0) + float(column.sum())
        return found

    @property
    def nbytes(self) -> int:
        """Memory of the numbers, in bytes."""
        return sum(table.nbytes for table in self._tables) + self.lengths.nbytes


class ExampleSetBuilder:
    """Collects examples by the names of their values and terms; `build` lays them out flat."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.table: list[int] = []
        self.place: list[int] = []
        self.origins: list[str] = []
        self.repeated: list[int] = []
        self.media: dict[int, Sequence[Medium]] = {}
        self.aside = _Aside()
        self.kinds: dict[tuple[tuple[str, ...], tuple[str, ...]], _Rows] = {}
        self._numbers: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def extend(self, examples: Iterable[Example]) -> None:
        for example in examples:
            kind = (tuple(example.values), tuple(example.weights))
            rows = self.kinds.setdefault(kind, _Rows(kind[0]))
            self.table.append(self._numbers.setdefault(kind, len(self._numbers)))
            self.place.append(rows.add(example))
            self.lengths.append(example.length)
            self.origins.append(example.origin)
            self.repeated.append(example.repeated)
            if example.media:
                self.media[len(self.origins) - 1] = self.aside.kept(example.media)

    def build(self) -> ExampleSet:
        made = ExampleSet.__new__(ExampleSet)
        made._take(self)
        return made


class _Aside:
    """Data URLs of media in a temporary file, which has no name and goes with the process."""

    MARK = "aside:"

    def __init__(self) -> None:
        self._file: Any = None
        self._end = 0
        self._lock = threading.Lock()

    def kept(self, media: Sequence[Medium]) -> Sequence[Medium]:
        """The same media, with where it is in the place of each data URL. Raises WriteError on a full disk."""
        return [replace(m, source=self._put(m.source)) if m.source.startswith("data:") else m for m in media]

    def given(self, media: Sequence[Medium]) -> Sequence[Medium]:
        """The media as they were."""
        return [replace(m, source=self._get(m.source)) if m.source.startswith(self.MARK) else m for m in media]

    def _put(self, url: str) -> str:
        content = url.encode()
        with explained(Path(tempfile.gettempdir())):
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the examples are there
            self._file.write(content)
        place = f"{self.MARK}{self._end}+{len(content)}"
        self._end += len(content)
        return place

    def _get(self, place: str) -> str:
        start, _, length = place.removeprefix(self.MARK).partition("+")
        with self._lock:  # workers read beside one another
            self._file.seek(int(start))
            found: bytes = self._file.read(int(length))
            self._file.seek(0, 2)
        return found.decode()


class _Rows:
    """Values of examples of one kind, made compact as they come."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.values = {key: _ColumnBuilder() for key in keys}
        self.weights: list[tuple[float, ...]] = []

    def add(self, example: Example) -> int:
        for key, value in example.values.items():
            self.values[key].add(compact(value))
        self.weights.append(tuple(example.weights.values()))
        return len(self.weights) - 1


class _ColumnBuilder:
    """One value's column: arrays joined some thousand at a time, or objects from the first that is no 1-D array."""

    def __init__(self) -> None:
        self.pending: list[Any] = []
        self.parts: list[_Ragged] = []
        self.objects: list[Any] | None = None

    def add(self, value: Any) -> None:
        self.pending.append(value)
        if len(self.pending) >= _JOIN:
            self._join()

    def build(self) -> _Ragged | _Objects:
        self._join()
        if self.objects is not None:
            return _Objects(self.objects)
        return self.parts[0] if len(self.parts) == 1 else _Ragged(self.parts)

    def _join(self) -> None:
        arrays, self.pending = self.pending, []
        if not arrays:
            return
        if self.objects is None and _joinable([*self.parts[-1:], *arrays]):
            self.parts.append(_Ragged(arrays))
            return
        if self.objects is None:
            self.objects = [array for part in self.parts for array in part]
            self.parts = []
        self.objects += arrays


class _Table:
    """Columns of examples with the same keys."""

    def __init__(self, terms: Sequence[str], rows: _Rows) -> None:
        self.columns = {key: column.build() for key, column in rows.values.items()}
        weights = np.asarray(rows.weights, dtype=np.float64).reshape(len(rows.weights), len(terms))
        self.weights = {term: weights[:, i].copy() for i, term in enumerate(terms)}

    def row(self, place: int) -> tuple[dict[str, Any], dict[str, float]]:
        values = {key: column[place] for key, column in self.columns.items()}
        return values, {term: float(column[place]) for term, column in self.weights.items()}

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in (*self.columns.values(), *self.weights.values()))


class _Ragged:
    """1-D arrays of one type, end to end."""

    flat: NDArray[Any]
    counts: NDArray[np.int64]

    def __init__(self, arrays: Sequence[NDArray[Any] | _Ragged]) -> None:
        parts = [array.flat if isinstance(array, _Ragged) else array for array in arrays]
        types = {part.dtype for part in parts if len(part)}
        self.flat = np.concatenate(parts).astype(np.result_type(*types) if types else np.float32, copy=False)
        counts = [array.counts if isinstance(array, _Ragged) else [len(array)] for array in arrays]
        self.counts = np.concatenate(counts).astype(np.int64)
        self.ends = np.cumsum(self.counts)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.flat.dtype

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, place: int) -> NDArray[Any]:
        return self.flat[(self.ends[place - 1] if place else 0) : self.ends[place]]

    @property
    def nbytes(self) -> int:
        return self.flat.nbytes + self.ends.nbytes + self.counts.nbytes


class _Objects:
    """Whatever is no list of numbers: kept as it is."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list(values)

    def __getitem__(self, place: int) -> Any:
        return self.values[place]

    @property
    def nbytes(self) -> int:
        return 8 * len(self.values) + sum(getattr(value, "nbytes", 0) for value in self.values)


class _Origins:
    """ "file:line" texts as a table of files and a number each."""

    def __init__(self, origins: Sequence[str]) -> None:
        files: dict[str, int] = {}
        parts = [_numbered(origin) for origin in origins]
        self.files = np.asarray([files.setdefault(name, len(files)) for name, _ in parts], dtype=np.int32)
        self.numbers = np.asarray([number for _, number in parts], dtype=np.int64)
        self.names = list(files)

    def __getitem__(self, index: int) -> str:
        name, number = self.names[self.files[index]], int(self.numbers[index])
        return name if number < 0 else f"{name}:{number}"


def compact(value: Any) -> Any:
    """A list of numbers as the smallest usual array that holds it; 1-D arrays and everything else as they are."""
    if not isinstance(value, (list, tuple)) or (value and not isinstance(value[0], (int, float, np.number))):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # a list of numbers and lists
        return value
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind == "i" and _SMALL.min <= array.min() and array.max() <= _SMALL.max:
        return array.astype(np.int32)
    return array if array.dtype.kind in "biu" else value


def _joinable(arrays: Sequence[Any]) -> bool:
    """Whether all are 1-D arrays of one kind of number, so that joining changes no value."""
    kinds = set()
    for array in arrays:
        if not isinstance(array, _Ragged) and not (isinstance(array, np.ndarray) and array.ndim == 1):
            return False
        if len(array):
            kinds.add(array.dtype.kind)
    return len(kinds) < 2


def _numbered(origin: str) -> tuple[str, int]:
    name, mark, number = origin.rpartition(":")
    if mark and number.isascii() and number.isdigit() and str(int(number)) == number:
        return name, int(number)
    return origin, -1


def spans(counts: Mapping[str, int]) -> dict[str, range]:
    """Where each part stands when parts of these sizes follow one another."""
    found, start = {}, 0
    for name, count in counts.items():
        found[name] = range(start, start + count)
        start += count
    return found
