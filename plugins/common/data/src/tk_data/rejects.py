"""Bad rows, written aside as JSON Lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class Rejects:
    """A file of {"origin", "reason", "row"} that appears whole, when the last row has been read, or not at all."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0
        self._handle: TextIO | None = None

    def add(self, origin: str, reason: str, row: Any) -> None:
        self.count += 1
        if self.path is None:
            return
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self._partial, "w", encoding="utf-8")  # noqa: SIM115  (closed in __exit__)
        line = json.dumps({"origin": origin, "reason": reason, "row": row}, ensure_ascii=False, default=str)
        self._handle.write(line.encode("utf-8", "backslashreplace").decode() + "\n")

    @property
    def _partial(self) -> Path:
        assert self.path is not None
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def written(self) -> bool:
        """Whether there is a file."""
        return self.path is not None and self.count > 0

    def __enter__(self) -> Rejects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None or self.path is None:
            return
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._handle = None
        if kind is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink()
