"""What a process holds of a run under DeepSpeed, for the memory that a plan tells."""

from __future__ import annotations

from typing import Any

from torch import nn

from tk.contracts import Share
from tk_deepspeed.document import Document

BUCKET, LIVE = 500_000_000, 1_000_000_000
"""Numbers in a bucket of gradients, and of parameters gathered at a time, where the config names none (DeepSpeed's own)."""
BF16, FP32 = 2, 4
"""Bytes of a number."""


def share_of(
    document: Document, module: nn.Module, processes: int, precision: str, *, hidden: int | None, apart: bool
) -> Share:
    """By stage: optimizer state is in shares from 1 on, gradients from 2, parameters at 3. apart: the device is not the CPU,
    so that what is offloaded leaves it.

    Besides there are the copies in single precision that are updated, with offload the gradients that wait for them, the bucket
    that gradients are summed in, and, at stage 3, the parameters that are gathered.
    """
    stage, zero = document.stage, document.zero(hidden)
    if not stage:
        return Share()
    part = 1 / processes
    bf16 = document.in_bf16(precision)
    parameters = list(module.parameters())
    loaded = sum(p.numel() * p.element_size() for p in parameters)
    held = sum(p.numel() * (BF16 if bf16 else p.element_size()) for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    offloaded = _offloads(zero, "optimizer")
    optimizer, weights = apart and offloaded, apart and _offloads(zero, "param")
    besides = 0.0 if optimizer else trained * FP32 * part * (2 if offloaded else 1)
    if stage > 1 or not bf16:
        besides += zero.get("reduce_bucket_size", BUCKET) * FP32 * (2 if zero.get("overlap_comm") else 1)
    if stage == 3:
        numbers = sum(p.numel() for p in parameters)
        besides += held * min(1.0, zero.get("stage3_max_live_parameters", LIVE) / numbers)
    return Share(
        weights=0.0 if weights else held / loaded * (part if stage == 3 else 1.0),
        gradients=0.0 if optimizer else part if stage > 1 else 1.0,
        optimizer=0.0 if optimizer else part,
        gathered=int(besides),
        kept=stage == 3 or bf16,
    )


def _offloads(zero: dict[str, Any], what: str) -> bool:
    return (zero.get(f"offload_{what}") or {}).get("device", "none") == "cpu"
