"""What the readers share: opening a file with clear errors, its fingerprint, and decoding of text and JSON."""

from __future__ import annotations

import hashlib
import json
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tk.errors import DataError

BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_HEAD = 1 << 13


class Content:
    """A file that is open for reading at any offset. Closed when nobody refers to it any more."""

    def __init__(self, path: str, *, text: bool = True) -> None:
        """Raises DataError where the file is missing, a folder, unreadable, empty, or (`text`) binary."""
        self.path = path
        self.handle: BinaryIO = _opened(path)
        weakref.finalize(self, self.handle.close)
        head = self.handle.read(_HEAD)
        if text:
            _check_text(path, head)
        self.start = len(BOM) if text and head.startswith(BOM) else 0

    def slice(self, start: int, end: int) -> bytes:
        self.handle.seek(start)
        return self.handle.read(end - start)

    def fingerprint(self) -> str:
        """sha256 of the whole file, hex."""
        self.handle.seek(0)
        digest = hashlib.sha256()
        while chunk := self.handle.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def decode(raw: bytes, origin: str) -> str:
    """UTF-8 text of a row. Raises DataError with the column of what is not UTF-8, or holds a NUL byte."""
    if b"\0" in raw:
        raise DataError(f"{origin}: holds a NUL byte (byte {raw.index(0) + 1} of the row): is it text?")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{origin}: not UTF-8 at byte {error.start + 1} of the row ({error.reason}): save the file as UTF-8."
        ) from error


def parse_json(raw: bytes, origin: str) -> Any:
    """The JSON value of a row. Raises DataError with the column (characters, from 1) of a mistake."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = decode(raw, origin)
        raise DataError(f"{origin}: invalid JSON{_mistake(text, error)}") from error
    except RecursionError:
        raise DataError(f"{origin}: invalid JSON: it is nested too deeply.") from None


def check_object(value: Any, origin: str) -> Any:
    """`value` if it is a JSON object. Raises DataError otherwise."""
    if not isinstance(value, dict):
        raise DataError(f"{origin}: a row must be an object {{…}} of columns, this one is {json_type(value)}.")
    return value


def json_type(value: Any) -> str:
    """A JSON value's type with its article."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _mistake(text: str, error: Exception) -> str:
    """Where and what, in the standard library's words, which count characters and not bytes."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as found:
        return f" at column {found.pos + 1}: {found.msg}."
    except ValueError as found:
        return f": {found}"
    return f": {error}"


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON value.")


def _opened(path: str) -> BinaryIO:
    if not path:
        raise DataError("No data file is named.")
    if Path(path).is_dir():
        raise DataError(f"{path}: is a folder, not a file: name a file in it.")
    try:
        handle = open(path, "rb")  # noqa: SIM115  (closed by Content's finalizer)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    if not handle.read(1):
        handle.close()
        raise DataError(f"{path}: the file is empty.")
    handle.seek(0)
    return handle


def _check_text(path: str, head: bytes) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}:1: the file is UTF-16: save it as UTF-8.")
    if b"\0" in head:
        line = head[: head.index(0)].count(b"\n") + 1
        raise DataError(f"{path}:{line}: a binary file (it holds NUL bytes), where text is expected.")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}:1: the file is compressed (gzip): unpack it first.")
