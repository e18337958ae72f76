"""From what a config names to samples: the reader of a source, its rows, and their format.

What training, inference and previews share; it knows no file type and no shape, only the kinds that read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from tk.config.options import options_of
from tk.config.sections import SourceSection
from tk.contracts import Format, Row, RowSet
from tk.errors import DataError, TkError, UsageError, nearest
from tk.registry import Component, Registry
from tk.sample import Sample
from tk.specs import DatasetSpec, FormatSpec


class RowError(DataError):
    """A row that cannot be used, with its parts: origin, reason, and the row where it could be read."""

    def __init__(self, origin: str, reason: str, row: Any = None) -> None:
        super().__init__(f"{origin}: {reason}")
        self.origin, self.reason, self.row = origin, reason, row


@dataclass(frozen=True)
class Reading:
    """An opened source: rows by index, and what they mean. columns: those that rewards may read, of the rows read so far."""

    name: str
    section: SourceSection
    rows: RowSet
    format_name: str
    format: Format
    columns: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return min(len(self.rows), self.section.first or len(self.rows))

    def sample(self, index: int) -> Sample:
        """The sample of a row. Raises RowError."""
        row = read(self.rows, index, self.section.columns)
        return self.meaning(row)

    def meaning(self, row: Row) -> Sample:
        try:
            sample = replace(self.format(row.data), origin=row.origin)
            self.columns.update(sample.columns)
            return sample
        except (ValueError, TkError) as error:
            if isinstance(error, UsageError):
                raise
            raise row_error(error, row.origin, row.data) from error


def open_source(registry: Registry, name: str, section: SourceSection) -> Reading:
    """Open a source and find its format. Raises DataError with file and line, UsageError where a name is wrong."""
    if not section.path:
        raise UsageError(f"data.sources.{name}.path: no file or data set is named.")
    component, path = reader_of(registry, section.path)
    rows = component.build(*dataset_options(component, name, section.options)).open(path)
    if not len(rows):
        raise DataError(f"{section.path}: there are no rows.")
    if section.format != "auto":
        found = registry.get("formats", section.format)
    else:
        found = format_of(registry, name, rows, section)
    return Reading(name, section, rows, found.name, found.build())


def reader_of(registry: Registry, path: str) -> tuple[Component, str]:
    """The data set that `path` names, or the reader of the file's ending; and what to open with it."""
    components = [c for c in registry.all("datasets") if isinstance(c.spec, DatasetSpec)]
    if any(path in _names(c) for c in components if not _suffixes(c)):
        return registry.get("datasets", path), ""
    if Path(path).is_dir():
        raise DataError(f"{path}: is a folder, not a file: name a file in it.")
    endings = {suffix for c in components for suffix in _suffixes(c) if path.lower().endswith(f".{suffix}")}
    if not endings:
        raise _unknown(registry, components, path)
    longest = max(endings, key=len)
    readers = [c for c in components if longest in _suffixes(c)]
    if len(readers) > 1:
        listed = " and ".join(sorted(c.distribution for c in readers))
        raise UsageError(f"{path}: {listed} both read .{longest} files: disable one (--plugins.disable).")
    return readers[0], path


def dataset_options(component: Component, name: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The options to build a data set with: none for one that takes none."""
    config = component.config()
    where = f"data.sources.{name}.options"
    if config is None:
        if given:
            raise UsageError(f"{where}: {component.name} has no options.")
        return ()
    known = {option.name for option in options_of(config)}
    for key in given:
        if key not in known:
            raise UsageError(f"{where}.{key}: {component.name} has no such option.{nearest(key, known)}")
    try:
        return (msgspec.convert(dict(given), config, strict=False),)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error


def format_of(registry: Registry, name: str, rows: RowSet, section: SourceSection) -> Component:
    """The one format that recognises the columns of the first row. Raises UsageError for none and for several."""
    first = _first_row(rows, section)
    candidates = [c for c in registry.all("formats") if isinstance(c.spec, FormatSpec)]
    sizes = [cast(FormatSpec, c.spec).recognises(first.data) for c in candidates]
    found = [c for c, size in zip(candidates, sizes, strict=True) if size and size == max(sizes)]
    if len(found) == 1:
        return found[0]
    columns = ", ".join(map(str, first.data)) or "none"
    mend = f"--data.sources.{name}.format"
    if found:
        names = " and ".join(c.name for c in found)
        raise UsageError(f"{first.origin}: the columns ({columns}) fit the formats {names}: choose one with {mend}.")
    known = "; ".join(f"{c.name}: {_columns(cast(FormatSpec, c.spec))}" for c in candidates)
    raise UsageError(
        f"{first.origin}: no format fits the columns ({columns}). Rename columns "
        f"(data.sources.{name}.columns: {{theirs: ours}}), or name a format with {mend}. Known: {known}."
    )


def read(rows: RowSet, index: int, columns: Mapping[str, str]) -> Row:
    """A row with its columns renamed. Raises RowError."""
    try:
        row = rows[index]
    except DataError as error:
        raise row_error(error, f"row {index + 1}") from error
    if not isinstance(row.data, Mapping):
        raise RowError(row.origin, "a row must be an object {…} of columns", row.data)
    return Row(_renamed(row, columns), row.origin) if columns else row


def row_error(error: Exception, origin: str, row: Any = None) -> RowError:
    """An error about a row, with the origin in front just once."""
    if isinstance(error, RowError):
        return error
    text = str(error) or type(error).__name__
    if text.startswith(f"{origin}: "):
        return RowError(origin, text.removeprefix(f"{origin}: "), row)
    placed = re.match(r"(.+?:\d+): (.*)", text, re.DOTALL) if isinstance(error, DataError) else None
    return RowError(placed[1], placed[2], row) if placed else RowError(origin, text, row)


def _first_row(rows: RowSet, section: SourceSection) -> Row:
    """The first row that can be read at all: what is wrong with those before it is told when all are read."""
    failed: RowError | None = None
    for index in range(len(rows)):
        try:
            return read(rows, index, section.columns)
        except RowError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _renamed(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    renamed = {columns.get(name, name): value for name, value in row.data.items()}
    if len(renamed) < len(row.data):
        raise RowError(row.origin, "two columns have one name after renaming (columns: {theirs: ours})", row.data)
    return renamed


def _unknown(registry: Registry, components: Iterable[Component], path: str) -> TkError:
    suffixes = sorted({f".{suffix}" for c in components for suffix in _suffixes(c)})
    sets = sorted(c.name for c in components if not _suffixes(c))
    if Path(path).exists() or Path(path).suffix or "/" in path:
        return UsageError(
            f"{path}: no reader for such a file. Known endings: {', '.join(suffixes) or 'none (install tk-plugin-files)'}."
        )
    close = nearest(path, sets)
    return UsageError(
        f"{path}: there is no such file, and no data set of that name.{close} Data sets: {', '.join(sets) or 'none'}; "
        f"file endings: {', '.join(suffixes) or 'none'}."
    )


def _names(component: Component) -> set[str]:
    plain = {component.name, *component.spec.aliases}
    return plain | {f"{component.distribution}:{name}" for name in plain}


def _suffixes(component: Component) -> tuple[str, ...]:
    return component.spec.suffixes if isinstance(component.spec, DatasetSpec) else ()


def _columns(spec: FormatSpec) -> str:
    return " or ".join("+".join(alternative) for alternative in spec.columns) or "by name only"
