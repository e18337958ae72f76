"""Bad rows, written aside as JSON Lines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tk.files import explained, write_file


class Rejects:
    """A file of {"origin", "reason", "row"} that appears whole, when the last row has been read, or not at all.

    Until then the rows are in the system's temporary folder, so that a run that fails leaves no folder of its own.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0
        self._rows: IO[bytes] | None = None

    def add(self, origin: str, reason: str, row: Any) -> None:
        self.count += 1
        if self.path is None:
            return
        with explained(self.path):
            if self._rows is None:
                self._rows = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
            line = json.dumps({"origin": origin, "reason": reason, "row": row}, ensure_ascii=False, default=str)
            self._rows.write(line.encode("utf-8", "backslashreplace") + b"\n")

    @property
    def written(self) -> bool:
        """Whether there is a file."""
        return self.path is not None and self.count > 0

    def __enter__(self) -> Rejects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rows is None or self.path is None:
            return
        with self._rows as rows:
            if kind is None:
                rows.seek(0)
                write_file(self.path, rows.read())
        self._rows = None
