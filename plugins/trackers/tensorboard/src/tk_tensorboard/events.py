"""An event file, written in the calling thread: a full disk is an error there, and not a traceback of another thread."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.summary.writer.record_writer import RecordWriter

from tk.files import explained


class Events:
    """A new event file in `folder`, flushed at most `flush_seconds` after an event. Raises TkError on a full disk."""

    def __init__(self, folder: Path, flush_seconds: float) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}"
        self._path, number = folder / f"{name}.0", 0
        while self._path.exists():  # a run that was resumed within a second
            number += 1
            self._path = folder / f"{name}.{number}"
        self._flush_seconds, self._flushed = flush_seconds, 0.0
        with explained(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        metadata = SourceMetadata(writer="tk_tensorboard.events")
        self.add(Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=metadata))

    def add(self, event: Event) -> None:
        with explained(self._path):
            self._records.write(event.SerializeToString())
            if time.monotonic() - self._flushed >= self._flush_seconds:
                self._file.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        with explained(self._path):
            self._file.close()
