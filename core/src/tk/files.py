"""Files and folders that appear whole or not at all: a temporary name beside their place, fsync, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tk.errors import TkError


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Where what was fetched or converted is kept: $TK_CACHE, else $XDG_CACHE_HOME/tk, else ~/.cache/tk."""
    if chosen := environ.get("TK_CACHE"):
        return Path(chosen).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tk"


class WriteError(TkError):
    """A file or folder could not be written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot be written: {reason}.")
        self.reason = reason


@contextmanager
def explained(path: Path, *also: type[Exception]) -> Iterator[None]:
    """A failure to write (a full disk, no permission) as a WriteError that names what was to be written.

    Of several around each other the outermost says what: the inner ones may know a temporary name only.
    also: what a library raises there besides OSError.
    """
    refused: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except WriteError as error:
        raise WriteError(path, error.reason) from error
    except refused as error:
        raise WriteError(path, getattr(error, "strerror", None) or str(error)) from error


TEMPORARY = ".tmp"
"""Ending of the name that a file has while it is written; one that is left after a crash counts for nothing."""


@contextmanager
def writing(path: Path, *, private: bool = False) -> Iterator[Callable[[str | bytes], None]]:
    """Writes to a file, piece by piece, that is put in its place when the block ends without an error.

    private: only its owner may read it. Folders on the way are made. Raises WriteError on a full disk; an error of the block leaves what was there.
    """
    work = path.with_name(path.name + TEMPORARY)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = work.open("wb")
        if private:
            work.chmod(0o600)

    def write(content: str | bytes) -> None:
        with explained(path):
            file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
            file.flush()

    try:
        yield write
        with explained(path):
            os.fsync(file.fileno())
            file.close()
            work.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # what it still holds finds no room either, which was told
            file.close()
        work.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes, *, private: bool = False) -> Path:
    """Put a file in its place, or leave what was there. Raises WriteError on a full disk."""
    with writing(path, private=private) as write:
        write(content)
    return path


@contextmanager
def staged(folder: Path, last: str = "config.json") -> Iterator[Path]:
    """A temporary folder beside `folder`, whose files take their place in it when the block ends without an error.

    A new folder appears in one rename. In a folder that is there already, files are replaced one by one and the file
    named `last`, without which the others count for nothing, is removed first and put in last.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield work
        for path in work.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
            sync(path)
        sync(work)
        work.chmod(0o755)
        if folder.exists():
            _move_into(work, folder, last)
        else:
            work.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move_into(work: Path, folder: Path, last: str) -> None:
    (folder / last).unlink(missing_ok=True)
    for path in sorted(work.iterdir(), key=lambda path: path.name == last):
        if path.is_dir() and (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        path.replace(folder / path.name)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
