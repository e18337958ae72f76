"""Behaviour of methods: what they train does not depend on accumulation, nor on the number of processes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import tk
from tk.testing.need import need
from tk_conformance.train_many import train_many


def check_method(
    config: Mapping[str, Any], folder: Path, *, strategies: Sequence[str] = ("ddp",), tolerance: float = 1e-5
) -> None:
    """Train by name with one micro-batch a step, with several, and on two gloo processes: the same final weights, and in
    each step the same loss and norm of the gradient (within 1e-3, which small weights would not show).

    config: a run's config without `output` and `train.micro_batch_size`; a rate ≤ 1e-3 and ≤ 50 steps, no dropout.
    folder: an empty folder for the runs. tolerance: largest ‖a − b‖₂ / ‖b‖₂ over the trained tensors.
    """
    size = int(config.get("train", {}).get("batch_size", 16))
    small = max(1, size // 4)
    alone = {"whole": _run(config, folder / "whole", size), "accumulation": _run(config, folder / "accumulated", small)}
    spread = {
        f"two processes under {name}": _run({**config, "strategy": name}, folder / name, small) for name in strategies
    }
    for run in alone.values():
        tk.train(run)
    train_many(list(spread.values()), world=2)
    parts = {name: _trained(Path(run["output"]["dir"])) for name, run in (alone | spread).items()}
    whole = parts.pop("whole")
    courses = {name: _course(Path(run["output"]["dir"])) for name, run in (alone | spread).items()}
    expected = courses.pop("whole")
    need(bool(whole), "the run trained nothing")
    for name, course in courses.items():
        apart = [
            f"step {i + 1}: {a} and {b}"
            for i, (a, b) in enumerate(zip(course, expected, strict=True))
            if not _near(a, b)
        ]
        need(not apart, f"{name}: loss and norm of the gradient differ: {apart}")
    for name, weights in parts.items():
        need(weights.keys() == whole.keys(), f"{name}: other tensors are trained")
        worst = max(_distance(weights[key], whole[key]) for key in whole)
        need(worst <= tolerance, f"{name}: the trained weights differ by {worst:.1e}, more than {tolerance:.0e}")


def _run(config: Mapping[str, Any], output: Path, micro: int) -> dict[str, Any]:
    """The config of one of the runs."""
    train = {**config.get("train", {}), "micro_batch_size": micro}
    return {**config, "train": train, "output": {"dir": str(output)}}


def _trained(output: Path) -> dict[str, Tensor]:
    """The final weights of a run."""
    found: dict[str, Tensor] = {}
    for path in sorted((output / "final").rglob("*.safetensors")):
        found |= {f"{path.parent.name}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


def _course(output: Path) -> list[tuple[float | None, float | None]]:
    """Loss and norm of the gradient of each step."""
    lines = map(json.loads, (output / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "train"]


def _near(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    return all(
        x is y if x is None or y is None else math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-5)
        for x, y in zip(a, b, strict=True)
    )


def _distance(a: Tensor, b: Tensor) -> float:
    norm = torch.linalg.vector_norm
    return float(norm(a.double() - b.double()) / norm(b.double()).clamp_min(1e-30))
