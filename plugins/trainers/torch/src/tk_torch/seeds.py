"""Random streams of a run: one for initialisation, equal on every rank, then one a rank for dropout."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = Mapping[str, Tensor]


def seed_everything(*words: int) -> None:
    """Seed torch, numpy and Python from several numbers: other numbers give unrelated streams."""
    mixed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    torch.manual_seed(mixed >> 1)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


def torch_state(device: str) -> State:
    """Where torch's streams stand: what dropout of a forward pass follows from."""
    found = {"torch": torch.get_rng_state()}
    if device.startswith("cuda"):
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_torch_state(state: State, device: str) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def full_state(device: str) -> dict[str, Tensor]:
    """Where all streams of this process stand, as byte tensors for a checkpoint."""
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    numpy_state = {**legacy, "state": {k: np.asarray(v).tolist() for k, v in legacy["state"].items()}}
    return {
        **torch_state(device),
        "python": _packed([version, list(words), gauss]),
        "numpy": _packed(numpy_state),
    }


def set_full_state(state: State, device: str) -> None:
    set_torch_state(state, device)
    version, words, gauss = _unpacked(state["python"])
    random.setstate((version, tuple(words), gauss))
    numpy_state = _unpacked(state["numpy"])
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpacked(value: Tensor) -> Any:
    return json.loads(bytes(value.tolist()))
