"""A plugin file: an engine that never ends, and notes beside the checkpoint how many answers it has on their way.

It says nothing before there is a file `speak` beside the checkpoint, and then a token a step.
"""

import os
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tk import EngineSpec, hookimpl
from tk.contracts import Delta, LoadedModel, Request
from tk.engines import Base


class Held(Base):
    def __init__(self, *, model: LoadedModel, folder: Path) -> None:
        self._place, self._keys = Path(model.path), count()
        self._rows: dict[int, int] = {}
        self._note()

    def add(self, request: Request) -> int:
        key = next(self._keys)
        self._rows[key] = request.sampling.n
        self._note()
        return key

    def step(self) -> Sequence[Delta]:
        time.sleep(0.01)
        rows = [(key, number) for key, n in self._rows.items() for number in range(n)]
        return [Delta("x", (60,), key=key, number=n) for key, n in rows] if (self._place / "speak").exists() else []

    def cancel(self, key: int) -> None:
        self._rows.pop(key, None)
        self._note()

    def _note(self) -> None:
        (self._place / "new.txt").write_text(str(sum(self._rows.values())))
        os.replace(self._place / "new.txt", self._place / "held.txt")


@hookimpl
def tk_engines():
    yield EngineSpec(name="held", target=Held, summary="Never ends.")
