"""Environments of engines for slow tests, made once beside a repository."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path


def environment(root: Path, name: str, *steps: Sequence[str]) -> str:
    """The interpreter of an environment that pip makes in these steps, and that has nothing of tk.

    root: the folder that it is kept in as .venv-NAME. $TK_NAME_PYTHON is taken in its place, NAME as far as its version.
    """
    given = os.environ.get(f"TK_{name.partition('-')[0].upper()}_PYTHON")
    if given:
        return given
    folder = root / f".venv-{name}"
    with Path(tempfile.gettempdir(), f"tk{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other tests, in other processes, want it as well
        if not (folder / "whole").exists():
            _make(folder, steps)
            (folder / "whole").touch()
    return str(folder / "bin" / "python")


def _make(folder: Path, steps: Sequence[Sequence[str]]) -> None:
    venv.create(folder, with_pip=True, clear=True)
    for step in steps:
        done = subprocess.run([folder / "bin" / "python", "-m", "pip", *step, "-q"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{folder} could not be made: pip {' '.join(step)}\n{done.stdout}{done.stderr}")
