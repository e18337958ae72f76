"""Engines of packages that a class wraps which needs nothing of tk: here, or in a worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tk.contracts import LoadedModel
from tk.errors import TkError
from tk_remote import worker
from tk_remote.engine import Remote
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


class Installed(Remote):
    """A package's engine on the checkpoint that the model was loaded from; its own weights follow by `update`.

    A subclass names the package and the file whose class `Inside` wraps it, built with model: the checkpoint's folder;
    words: the engine's arguments; adapters: name -> folder.
    """

    package: ClassVar[str]
    inside: ClassVar[Path]

    def __init__(self, options: WorkerOptions, *, model: LoadedModel, folder: Path) -> None:
        adapters = model.adapters.folders if model.adapters is not None else {}
        values = {
            "model": model.path,
            "words": options.words(),
            "adapters": {name: str(path) for name, path in adapters.items()},
        }
        open_ = opener(self.package, self.inside, "Inside", options, values, folder)
        super().__init__(self.package, open_, model=model, folder=folder, restarts=options.restarts)
