"""Links to an engine that a class wraps which needs nothing of tk: here, or in a worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tk.errors import TkError
from tk_remote import worker
from tk_remote.links import Here, Link, Worker
from tk_remote.options import WorkerOptions


def opener(
    package: str, file: Path, name: str, options: WorkerOptions, values: Mapping[str, Any], folder: Path
) -> Callable[[], Link]:
    """What begins the engine of a file's class, built with `values`.

    package: the engine's distribution, for the error where it is not installed. folder: where a worker's log is kept.
    """

    def here() -> Link:
        try:
            built = worker.load(str(file), name)(**values)
        except ModuleNotFoundError as error:
            raise TkError(
                f"{package} is not installed in this environment ({error}): install it, or name the interpreter of one "
                "that has it: --engine.python PATH."
            ) from error
        except ValueError as error:
            raise TkError(f"{package}: {error}") from error
        return Here(built)

    def apart() -> Link:
        log = folder / f"{package}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        return Worker(options.python, file, name, values, log=log, start=options.start_timeout, environment=options.env)

    return apart if options.python else here
