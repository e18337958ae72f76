"""Small forwards that find out how a model behaves, with the model left as it was."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """The module without dropout for as long as it is entered; each part goes back to the mode that it was in."""
    active = [m for m in module.modules() if m.training]
    for m in active:
        m.training = False
    try:
        yield
    finally:
        for m in active:
            m.training = True


def accepts(module: nn.Module, argument: str) -> bool:
    """Whether the module's forward takes the argument, by name or among others."""
    parameters = inspect.signature(module.forward).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def names(module: nn.Module, argument: str) -> bool:
    """Whether the module's forward names the argument."""
    return argument in inspect.signature(module.forward).parameters


def on_meta(module: nn.Module) -> bool:
    """Whether the module has no weights to compute with."""
    return any(p.is_meta for p in module.parameters())


def probe_ids(module: nn.Module, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Token ids [rows, tokens] out of the middle of the vocabulary, where no special tokens stand."""
    embedding = module.get_input_embeddings()  # type: ignore[operator]
    size = embedding.weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(size // 4, max(size // 2, size // 4 + 1), shape, generator=generator)
    return ids.to(embedding.weight.device)


def distance(value: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest reference value; infinite where shapes differ or a value is not finite."""
    if value.shape != reference.shape or not bool(torch.isfinite(value).all()):
        return float("inf")
    scale = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((value.double() - reference.double()).abs().max() / scale)


def tolerance(module: nn.Module) -> float:
    """How far two ways to the same logits may lie apart, by the precision of the weights and of the computation."""
    weights = [p for p in module.parameters() if p.is_floating_point()]
    single = all(p.dtype in (torch.float32, torch.float64) for p in weights)
    return 1e-4 if single and not torch.is_autocast_enabled(weights[0].device.type) else 3e-2


def digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters, by their names, one after the other."""
    total = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
