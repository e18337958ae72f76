"""Environments of engines for slow tests, made once beside a repository."""

from __future__ import annotations

import os
import subprocess
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
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        venv.create(folder, with_pip=True, clear=True)
        for step in steps:
            done = subprocess.run([str(python), "-m", "pip", *step, "-q"], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{folder} could not be made: pip {' '.join(step)}\n{done.stdout}{done.stderr}")
        whole.touch()
    return str(python)
