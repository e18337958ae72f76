"""The processes of a run: joining and leaving them, and what they tell one another. Alone, there is no process group.

Nothing is pickled: tensors travel as bytes, everything else as JSON.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tk.contracts import World
from tk.errors import TkError, UsageError
from tk_parallel import machines

_MAX_DIMENSIONS = 8
_SETTLE = 0.2
"""Seconds given to the threads of the process group before Python ends."""


def join(timeout: float, *, always: bool = False) -> World:
    """Join the processes that torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) names.

    timeout: seconds that a collective may take before the run fails. always: make a group of one where the process is
    alone, for strategies that need one. Raises UsageError for an incomplete environment.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = own_device()
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), device)
    if size == 1 and not always:
        return World(0, 1, device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    limit = timedelta(seconds=timeout)
    if size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
        return World(0, 1, device)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the processes by torchrun.")
    try:
        store, rank = machines.meeting(size, limit)
        machines.meet(store, rank, size)
        dist.init_process_group(
            backend, store=dist.PrefixStore("default_pg", store), rank=rank, world_size=size, timeout=limit
        )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TkError(f"The {size} processes of the run did not meet at {where}: {error}") from error
    atexit.register(_destroy)
    return World(dist.get_rank(), size, device)


def leave() -> None:
    """Leave a group of one. A group of several stays until the process ends, and the next run finds it: torchrun's
    processes cannot meet a second time at the same address without mixing up the two meetings."""
    if dist.is_initialized() and dist.get_world_size() == 1:
        _destroy()


def _destroy() -> None:
    if not dist.is_initialized():
        return
    if dist.get_world_size() > 1:
        # gloo's threads let go of their last tensors just after a collective has returned, and abort the process where
        # the interpreter is gone by then; they do not end with the group while torch's wrappers hold on to it
        time.sleep(_SETTLE)
    dist.destroy_process_group()


def own_device() -> str:
    """The device of this process: a GPU where there are any, by its number on the machine."""
    if not torch.cuda.is_available():
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UsageError(f"This is process {local} of its machine, which has {torch.cuda.device_count()} GPUs only.")
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _grouped() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def all_reduce(values: Tensor) -> Tensor:
    """Element-wise sum over all ranks, in the dtype of `values` (float64 stays float64). A new tensor, no gradient."""
    total = values.detach().clone()
    if _grouped():
        dist.all_reduce(total)
    return total


def gather(values: Tensor) -> list[Tensor]:
    """Every rank's tensor in rank order, detached. First dimensions may differ; the others and the dtype must not.

    Raises TkError on every rank where the other dimensions differ.
    """
    values = values.detach()
    if not _grouped():
        return [values.clone()]
    size = dist.get_world_size()
    header = torch.zeros(_MAX_DIMENSIONS + 1, dtype=torch.int64)
    header[: values.dim() + 1] = torch.tensor([values.dim(), *values.shape])
    header = header.to(values.device)
    headers = [torch.empty_like(header) for _ in range(size)]
    dist.all_gather(headers, header)
    shapes = [tuple(row[1 : int(row[0]) + 1]) for row in (h.tolist() for h in headers)]
    if len({shape[1:] for shape in shapes}) > 1:
        raise TkError(f"The ranks' tensors differ in more than the first dimension and cannot be joined: {shapes}.")
    rows = [_bytes_of(shape, values) for shape in shapes]
    own = torch.zeros(max(rows), dtype=torch.uint8, device=values.device)
    flat = values.contiguous().reshape(-1).view(torch.uint8)
    own[: flat.numel()] = flat
    parts = [torch.empty_like(own) for _ in range(size)]
    if max(rows):
        dist.all_gather(parts, own)
    return [part[:n].view(values.dtype).reshape(shape) for part, n, shape in zip(parts, rows, shapes, strict=True)]


def _bytes_of(shape: Sequence[int], like: Tensor) -> int:
    return torch.Size(shape).numel() * like.element_size()


def exchange(gather: Callable[[Tensor], list[Tensor]], value: Any) -> list[Any]:
    """Every rank's JSON-able value in rank order, through a strategy's `gather` (floats arrive exactly)."""
    encoded = json.dumps(value).encode()
    parts = gather(torch.frombuffer(bytearray(encoded), dtype=torch.uint8))
    return [json.loads(part.cpu().numpy().tobytes()) for part in parts]


def decide(gather: Callable[[Tensor], list[Tensor]], value: Any) -> Any:
    """Rank 0's JSON-able value, on every rank."""
    return exchange(gather, value)[0]
