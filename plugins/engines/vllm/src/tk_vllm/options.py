"""Options of the engine `vllm`."""

from __future__ import annotations

from dataclasses import dataclass

from tk_remote.options import WorkerOptions


@dataclass(frozen=True)
class VllmOptions(WorkerOptions):
    """`args` are those of `vllm serve`: {max_model_len: 2048, gpu_memory_utilization: 0.5, tensor_parallel_size: 2}."""
