"""Readers of files: rows with true line numbers, and one clear error for each thing that can be wrong with a file."""

import csv
import hashlib
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.errors import DataError
from tk.plugins import load

READERS = {"jsonl", "json", "csv", "parquet"}


@pytest.fixture(scope="module")
def registry():
    return load()


@pytest.fixture
def opened(registry, tmp_path):
    def open_(name, content, reader=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        component = registry.get("datasets", reader or name.rpartition(".")[2])
        return component.build().open(str(path)), str(path)

    return open_


def rows(opened_set):
    return [(opened_set[i].data, opened_set[i].origin.rpartition(":")[2]) for i in range(len(opened_set))]


def error_of(opened, name, content, index=0, reader=None):
    with pytest.raises(DataError) as caught:
        opened(name, content, reader)[0][index]
    return str(caught.value).rpartition("/")[2]


def test_every_reader_is_installed_with_its_suffixes(registry):
    suffixes = {c.name: c.spec.suffixes for c in registry.all("datasets") if c.distribution == "tk-plugin-files"}
    assert suffixes == {
        "jsonl": ("jsonl", "ndjson"),
        "json": ("json",),
        "csv": ("csv", "tsv"),
        "parquet": ("parquet",),
    }


def test_jsonl_skips_blank_lines_and_keeps_line_numbers(opened):
    data, path = opened("a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "\xc3\xa9"}')
    assert rows(data) == [({"a": 1}, "1"), ({"a": "é"}, "4")]
    assert data[1].origin == f"{path}:4"


def test_rows_can_be_read_in_any_order(opened):
    data, _ = opened("a.jsonl", "".join(f'{{"n": {n}}}\n' for n in range(50)))
    assert [data[i].data["n"] for i in (49, 0, 7, 49)] == [49, 0, 7, 49]


@settings(deadline=None)  # a busy machine is not a slow reader
@given(
    table=st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers(-9, 9) | st.none()), min_size=1),
    blank=st.integers(0, 3),
)
def test_jsonl_and_json_return_what_was_written(tmp_path_factory, table, blank):
    folder = tmp_path_factory.mktemp("rows")
    lines = [json.dumps(row, ensure_ascii=False) for row in table]
    (folder / "a.jsonl").write_text(("\n" * (blank + 1)).join(lines), encoding="utf-8", newline="")
    (folder / "a.json").write_text("[" + ("," + "\n" * blank).join(lines) + "]", encoding="utf-8", newline="")
    for name, step in (("jsonl", blank + 1), ("json", blank)):
        data = load().get("datasets", name).build().open(str(folder / f"a.{name}"))
        assert rows(data) == [(row, str(1 + i * step)) for i, row in enumerate(table)]


@settings(deadline=None)  # a busy machine is not a slow reader
@given(
    table=st.lists(
        st.tuples(*[st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))] * 2), min_size=1
    )
)
def test_csv_returns_what_was_written(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerows([("one", "two"), *table])
    data = load().get("datasets", "csv").build().open(str(path))
    assert [data[i].data for i in range(len(data))] == [{"one": a, "two": b} for a, b in table]


def test_csv_records_over_several_lines_are_named_by_their_first(opened):
    data, _ = opened("a.csv", 'q,a\n"two\nlines",x\n\ny,"quoted ""z"""\n')
    assert rows(data) == [({"q": "two\nlines", "a": "x"}, "2"), ({"q": "y", "a": 'quoted "z"'}, "5")]


def test_tsv_and_a_delimiter_of_ones_own(registry, opened, tmp_path):
    data, _ = opened("a.tsv", "q\ta\n1,2\t3\n", reader="csv")
    assert data[0].data == {"q": "1,2", "a": "3"}
    (tmp_path / "b.csv").write_text("q;a\n1;2\n")
    component = registry.get("datasets", "csv")
    data = component.build(component.config()(delimiter=";")).open(str(tmp_path / "b.csv"))
    assert data[0].data == {"q": "1", "a": "2"}


def test_json_elements_have_the_line_they_begin_on(opened):
    data, _ = opened("a.json", '[\n {"a": [1,\n 2]},\n\n {"a": {"b": null}}\n]\n')
    assert rows(data) == [({"a": [1, 2]}, "2"), ({"a": {"b": None}}, "5")]


def test_parquet_rows_over_groups_and_slices(registry, tmp_path):
    path = tmp_path / "a.parquet"
    table = [{"n": n, "messages": [{"role": "user", "content": str(n)}]} for n in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path, row_group_size=1100)
    data = registry.get("datasets", "parquet").build().open(str(path))
    assert len(data) == 2500
    assert [data[i].data for i in range(2500)] == table
    assert [data[i].data["n"] for i in (2499, 0, 1099, 1100)] == [2499, 0, 1099, 1100]
    assert data[1100].origin == f"{path}:1101"


def test_the_fingerprint_is_the_files_sha256(opened):
    content = b'{"a": 1}\n'
    data, _ = opened("a.jsonl", content)
    assert data.fingerprint == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("reader", sorted(READERS))
def test_missing_file_folder_and_empty_file(registry, tmp_path, reader):
    dataset = registry.get("datasets", reader).build()
    empty = tmp_path / "empty"
    empty.touch()
    for path, problem in ((tmp_path / "none", "no such file"), (tmp_path, "is a folder"), (empty, "file is empty")):
        with pytest.raises(DataError, match=problem) as caught:
            dataset.open(str(path))
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(registry, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        registry.get("datasets", "jsonl").build().open(str(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x7fELF\0\0\n", "1: a binary file"),
        ('{"a": 1}\n'.encode("utf-16"), "1: the file is UTF-16"),
        (b"\x1f\x8b\x08rest", "1: the file is compressed"),
    ],
)
def test_files_that_are_no_text(opened, name, content, problem):
    assert error_of(opened, name, content).startswith(f"{name}:{problem}")


@pytest.mark.parametrize(
    ("name", "content", "index", "problem"),
    [
        ("a.jsonl", "\n \n", 0, "a.jsonl:1: the file holds no rows, only blank lines."),
        ("a.jsonl", '{"a": 1}\n{"é" 1}\n', 1, "a.jsonl:2: invalid JSON at column 6: Expecting ':' delimiter."),
        ("a.jsonl", '{"a": NaN}', 0, "a.jsonl:1: invalid JSON: NaN is no JSON value."),
        ("a.jsonl", '{"a": 1} {"a": 2}', 0, "a.jsonl:1: invalid JSON at column 10: Extra data."),
        ("a.jsonl", "[1]\n", 0, "a.jsonl:1: a row must be an object {…} of columns, this one is a list."),
        ("a.jsonl", "true\n", 0, "a.jsonl:1: a row must be an object {…} of columns, this one is a boolean."),
        ("a.jsonl", "[" * 100_000, 0, "a.jsonl:1: invalid JSON: it is nested too deeply."),
        ("a.jsonl", b'{"a": "\xff"}', 0, "a.jsonl:1: not UTF-8 at byte 8 of the row"),
        ("a.jsonl", b'{"a": "' + b"x" * 9000 + b'\0"}', 0, "a.jsonl:1: holds a NUL byte (byte 9008 of the row)"),
        ("a.json", '{"a": 1}', 0, "a.json:1: the file must be an array of rows [{…}, …], and begins with an object"),
        ("a.json", "5", 0, "a.json:1: invalid JSON at column 1: the file must be an array of rows"),
        ("a.json", '[\n{"a": 1}\n {"a": 2}]', 0, "a.json:3: invalid JSON at column 2: expecting ','"),
        ("a.json", '[\n{"a": }]', 0, "a.json:2: invalid JSON at column 7: Expecting value."),
        ("a.json", '[{"a": 1},\n]', 0, "a.json:2: invalid JSON at column 1: a comma stands before the array's end."),
        ("a.json", '[{"a": 1}', 0, "a.json:1: invalid JSON at column 10: expecting ','"),
        ("a.json", '[{"a": 1}]\nx', 0, "a.json:2: invalid JSON at column 1: something stands after the array."),
        ("a.json", '[\n{"a": 1},\n3]', 1, "a.json:3: a row must be an object {…} of columns, this one is a number."),
        ("a.json", "[]", 0, "a.json:1: the array holds no rows."),
        ("a.json", b'[{"a": "\xff"}]', 0, "a.json:1: not UTF-8"),
        ("a.json", "[" * 100_000, 0, "a.json:1: invalid JSON at column 2: it is nested too deeply."),
        ("a.csv", "a,b\n", 0, "a.csv:1: the file holds a header and no rows."),
        ("a.csv", "a,b\n1,2\n3\n", 1, "a.csv:3: 1 cells, where the header has 2 columns (a, b)."),
        ("a.csv", 'a,b\n"1\n",2,3\n', 0, "a.csv:2: 3 cells, where the header has 2 columns (a, b)."),
        ("a.csv", "a,a\n1,2\n", 0, "a.csv:1: the header has two columns named 'a'."),
        ("a.csv", "a,\n1,2\n", 0, "a.csv:1: column 2 of the header has no name."),
        ("a.csv", 'a,b\n"1,2\n3,4\n', 0, "a.csv:2: not a CSV record: a quote is opened and not closed."),
        ("a.csv", b"a,b\n1,\xff\n", 0, "a.csv:2: not UTF-8 at byte 3 of the row"),
        ("a.csv", "a\n" + "x" * 200_000, 0, "a.csv:2: not a CSV record: a cell is longer than 131072 characters"),
    ],
)
def test_errors_name_file_line_and_reason(opened, name, content, index, problem):
    assert error_of(opened, name, content, index).startswith(problem)


def test_a_truncated_parquet_file(registry, tmp_path):
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": list(range(1000))}), whole)
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match="cut.parquet: not a whole Parquet file"):
        registry.get("datasets", "parquet").build().open(str(cut))


def test_damaged_parquet_rows_name_where_they_begin(registry, tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x" * 50] * 1000}), path, row_group_size=500)
    raw = bytearray(path.read_bytes())
    raw[8:60] = b"\xff" * 52
    path.write_bytes(raw)
    data = registry.get("datasets", "parquet").build().open(str(path))
    with pytest.raises(DataError, match=r"a\.parquet:1: the rows from here on cannot be read"):
        data[3]


def test_listing_imports_no_pyarrow():
    import subprocess
    import sys

    code = "import sys, tk_files.plugin as p; list(p.tk_datasets()); print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
