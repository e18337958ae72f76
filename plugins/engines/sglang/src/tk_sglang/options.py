"""Options of the engine `sglang`."""

from __future__ import annotations

from dataclasses import dataclass

from tk_remote.options import WorkerOptions


@dataclass(frozen=True)
class SglangOptions(WorkerOptions):
    """`args` are those of `sglang serve`: {context_length: 2048, mem_fraction_static: 0.5, tp_size: 2}."""
