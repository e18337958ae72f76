"""A file of lines that may take several tries: what is there of it stays beside its place, with what it was made with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from tk.errors import UsageError
from tk.files import explained, sync, write_file

PART, ABOUT = ".part", ".part.json"
"""Endings of the names that the lines, and what they were made with, have until all are there."""
BLOCK = 1 << 20


class Part:
    """Lines of a file that is not whole, which one process at a time adds to. Leave it as a context.

    kept: how many of them an earlier try has left.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any], *, resume: bool) -> None:
        """Raises UsageError where there are lines and `resume` is not asked for, or they were made with anything else; and
        where another process adds to them."""
        self.path = path
        self._lines, self._about = (path.with_name(path.name + ending) for ending in (PART, ABOUT))
        self._made_with = json.loads(json.dumps(made_with))
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _held(self._lines)
        try:
            self.kept = self._written = _whole_lines(self._lines)
            if self.kept and not resume:
                raise UsageError(
                    f"{path}: {self.kept} lines of it are there from a run that was cut off: --resume goes on with the next, "
                    f"or delete {self._lines}."
                )
            if self.kept:
                self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others add to the lines; without any, nothing is left."""
        if self._file.closed:
            return
        if not self._written:
            self._lines.unlink(missing_ok=True)
            self._about.unlink(missing_ok=True)
        with suppress(OSError):  # what it still holds finds no room either, which was told
            self._file.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """The kept lines."""
        with self._lines.open(encoding="utf-8") as file:
            for _, line in zip(range(self.kept), file, strict=False):
                yield json.loads(line)

    def keep(self, count: int) -> None:
        """Only the first `count` lines."""
        self.kept = count

    @contextmanager
    def writing(self) -> Iterator[Callable[[str], None]]:
        """Adds lines. The file is in its place when the block ends without an error; else its lines wait for `resume`."""
        file, self._written = self._file, self.kept
        with explained(self.path):
            file.truncate(_end_of(file, self.kept))
            file.seek(0, os.SEEK_END)

        def write(line: str) -> None:
            with explained(self.path):
                file.write(line.encode("utf-8", "backslashreplace") + b"\n")
                file.flush()
            self._written += 1

        write_file(self._about, json.dumps(self._made_with))
        yield write
        with explained(self.path):
            os.fsync(file.fileno())
            self._lines.replace(self.path)
            file.close()
            sync(self.path.parent)
        self._about.unlink()

    def _check(self) -> None:
        was = json.loads(self._about.read_text(encoding="utf-8")) if self._about.exists() else {}
        names = sorted({*was, *self._made_with})
        differing = [
            f"{name} (was {was.get(name)!r}, is {self._made_with.get(name)!r})"
            for name in names
            if was.get(name) != self._made_with.get(name)
        ]
        if differing:
            raise UsageError(
                f"--resume: the {self.kept} lines of {self.path} that are there were made with another config: "
                f"{'; '.join(differing[:3])}. Give the same values, or delete {self._lines}."
            )


def _held(path: Path) -> BinaryIO:
    """A file that no other process holds, made where there is none. Raises UsageError where one does."""
    file = path.open("r+b" if path.exists() else "w+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(
            os.fstat(file.fileno()), path.stat()
        ):  # not one that another has put in its place meanwhile
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    raise UsageError(f"{path}: another process is writing it: wait until it has ended, or name another file.")


def _whole_lines(path: Path) -> int:
    """Lines with an end."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))


def _end_of(file: Any, lines: int) -> int:
    """Where the first `lines` lines end."""
    file.seek(0)
    for _ in range(lines):
        file.readline()
    return int(file.tell())
