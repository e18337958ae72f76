"""Bad rows, kept until the run has a folder to write them to, as JSON Lines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tk.files import write_file

IN_MEMORY = 1 << 20
"""Bytes; more of them are kept in the system's temporary folder."""


class Rejects:
    """Lines of {"origin", "reason", "row"}."""

    def __init__(self) -> None:
        self.count = 0
        self._rows = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  (deleted with this object)

    def add(self, origin: str, reason: str, row: Any) -> None:
        self.count += 1
        line = json.dumps({"origin": origin, "reason": reason, "row": row}, ensure_ascii=False, default=str)
        self._rows.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def write(self, path: Path) -> None:
        """Put them in a file, whole or not at all. Raises TkError where it cannot be written."""
        self._rows.seek(0)
        write_file(path, self._rows.read())
