"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        for file in work.iterdir():
            file.chmod(0o644)
            _sync(file)
        _sync(work)
        work.chmod(0o755)
        if folder.exists():
            _move_into(work, folder, last)
        else:
            work.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move_into(work: Path, folder: Path, last: str) -> None:
    (folder / last).unlink(missing_ok=True)
    for file in sorted(work.iterdir(), key=lambda file: file.name == last):
        file.replace(folder / file.name)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
