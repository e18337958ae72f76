"""DeepSpeed itself: imported only when a run begins under it, and kept off the standard output, which is the run's."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from tk.errors import TkError, UsageError

TOLD = 15
"""Lines of what DeepSpeed and its compiler said that are told where they fail."""


def imported(device: str) -> Any:
    """The module `deepspeed`, computing on the device type that the run computes on.

    Raises TkError where it, or what it needs to build its kernels, is missing; UsageError for an environment that it
    cannot start in.
    """
    kind = torch.device(device).type
    if "LOCAL_RANK" not in os.environ:
        raise UsageError(
            "strategy deepspeed: DeepSpeed reads LOCAL_RANK, which is not set: start the run by `tk train`, a launcher or "
            "torchrun."
        )
    _reach_programs()
    if kind == "cpu" and sys.platform == "linux":
        _check_compiler()
    with spoken("DeepSpeed cannot be loaded"):
        import deepspeed
        from deepspeed.accelerator import get_accelerator

        found = get_accelerator().device_name()
    if found != kind:
        raise UsageError(
            f"strategy.accelerator: DeepSpeed would compute on {found}, and the run on {kind}: set it to {kind} and let a "
            f"launcher start the processes, or start them with DS_ACCELERATOR={kind}."
        )
    return deepspeed


def _reach_programs() -> None:
    """DeepSpeed builds its kernels by the `ninja` on the PATH, and pip puts one beside the interpreter."""
    own = str(Path(sys.executable).parent)
    paths = os.environ.get("PATH", "")
    if own not in paths.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, (paths, own)))


def _check_compiler() -> None:
    """On CPUs DeepSpeed builds a kernel of its own for its collectives before it trains."""
    compiler = os.environ.get("CXX", "c++")
    for program, mend in ((compiler, "install g++, or name a compiler in CXX"), ("ninja", "pip install ninja")):
        if shutil.which(program) is None:
            raise TkError(
                f"strategy deepspeed: on a CPU DeepSpeed compiles a kernel, and there is no {program!r} on the PATH: {mend}."
            )


@contextmanager
def spoken(failed: str) -> Iterator[None]:
    """What DeepSpeed, its compiler and its logger write meanwhile is kept, and told where it fails (TkError)."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(said.fileno(), number)
        try:
            with redirect_stdout(sys.stderr):  # its logger keeps the stream that it finds
                yield
        except (TkError, KeyboardInterrupt):
            raise
        except Exception as error:
            sys.stderr.flush()
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()[-TOLD:]
            raise TkError(f"{failed}: {error}" + "".join(f"\n  {line}" for line in lines)) from error
        finally:
            sys.stderr.flush()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
