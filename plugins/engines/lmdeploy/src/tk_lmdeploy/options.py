"""Options of the engine `lmdeploy`."""

from __future__ import annotations

from dataclasses import dataclass

from tk_remote.options import WorkerOptions


@dataclass(frozen=True)
class LmdeployOptions(WorkerOptions):
    """`args` are those of `lmdeploy serve api_server`: {session_len: 2048, cache_max_entry_count: 0.5, tp: 2}."""
