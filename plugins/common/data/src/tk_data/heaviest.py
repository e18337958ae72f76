"""The window of a run whose largest micro-batch takes the most, for what is to be known of a run before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tk.contracts import Session, Window
from tk_data.loader import Loader
from tk_data.plans import deal

TRIED = 16
"""Windows that are looked at: those with the longest rows."""


class Heaviest:
    """One window of the first epoch, as often as it is asked for. Implements tk.contracts.Source."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def windows(self, cursor: Mapping[str, Any] | None = None, *, beyond: bool = False) -> Iterator[Window]:
        number = heaviest(self._loader)
        while True:
            yield self._loader.window(0, number)

    def updated(self, step: int, session: Session) -> None:
        """Nothing: the data does not depend on the model."""


def heaviest(loader: Loader) -> int:
    """Number of the window with the micro-batch that has the most tokens, padding counted; the longest row decides first."""
    rows = loader.rows(0)
    lengths = np.add.reduceat(np.asarray(loader.lengths)[rows.flat], rows.starts[:-1])
    found: dict[int, tuple[int, int]] = {}
    for row in np.argsort(-lengths, kind="stable").tolist():
        number = row // loader.batch_size
        if number not in found:
            own = lengths[number * loader.batch_size : (number + 1) * loader.batch_size].tolist()
            dealt = deal(own, loader.micro_batch_size, loader.world.size)
            sizes = [len(batch) * max(own[i] for i in batch) for rank in dealt for batch in rank if batch]
            found[number] = (max(sizes), max(own))
        if len(found) == TRIED:
            break
    return max(found, key=lambda number: found[number])
