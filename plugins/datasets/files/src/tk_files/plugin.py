"""The readers of local files."""

from __future__ import annotations

from collections.abc import Iterator

from tk.hookspecs import hookimpl
from tk.specs import DatasetSpec


@hookimpl
def tk_datasets() -> Iterator[DatasetSpec]:
    yield DatasetSpec(
        name="jsonl", target="tk_files.json_lines:JsonLines", suffixes=("jsonl", "ndjson"), summary="One object a line."
    )
    yield DatasetSpec(
        name="json", target="tk_files.json_array:JsonArray", suffixes=("json",), summary="One array of objects."
    )
    yield DatasetSpec(
        name="csv",
        target="tk_files.separated:Csv",
        config="tk_files.options:CsvOptions",
        suffixes=("csv", "tsv"),
        summary="A header line and one row a record; cells are text.",
    )
    yield DatasetSpec(
        name="parquet",
        target="tk_files.columnar:Parquet",
        suffixes=("parquet",),
        summary="Parquet files, by row group.",
        extra="tk-plugin-files[parquet]",
        needs=("module:pyarrow",),
    )
