"""Behaviour of data sets: random access, an end, origins for errors, and a fingerprint that follows the content."""

from __future__ import annotations

import re

from tk.contracts import Dataset, RowSet
from tk.testing.need import need


def check_dataset(dataset: Dataset, path: str = "") -> RowSet:
    """Open the set twice and compare; read every row (of the first thousand). Returns the opened set."""
    rows, again = dataset.open(path), dataset.open(path)
    name = type(dataset).__name__
    need(len(rows) == len(again), f"{name}: opened twice it has {len(rows)} and {len(again)} rows")
    need(len(rows) > 0, f"{name}: it has no rows: check it with some")
    need(
        re.fullmatch(r"[0-9a-f]{64}", rows.fingerprint), f"{name}: fingerprint {rows.fingerprint!r} is no sha256 in hex"
    )
    need(rows.fingerprint == again.fingerprint, f"{name}: opened twice its fingerprints differ")
    for index in range(min(len(rows), 1000)):
        row, other = rows[index], again[index]
        need(row.data == other.data, f"{name}: row {index} differs when it is read again")
        need(row.origin.strip(), f"{name}: row {index} has no origin (file:line or name:index)")
    origins = [rows[index].origin for index in range(min(len(rows), 1000))]
    need(len(set(origins)) == len(origins), f"{name}: two rows have one origin")
    try:
        rows[len(rows)]
    except IndexError:
        return rows
    raise AssertionError(f"{name}: a row past the end does not raise IndexError")
