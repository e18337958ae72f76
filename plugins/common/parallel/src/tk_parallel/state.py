"""Weights and optimizer state by plain parameter names, as full tensors on the CPU: what a checkpoint holds.

The names do not depend on the wrapper, nor the tensors on how they were sharded, so that a checkpoint can be read on
any number of processes and under another strategy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tk.errors import TkError

_NUMBERS: Mapping[str, type] = {"bool": bool, "int": int, "float": float}


def full(tensor: Tensor, receive: bool) -> Tensor:
    """The whole of a tensor, detached; a collective where it is sharded. It may share memory with `tensor`.

    receive: this rank has a use for it, on the CPU.
    """
    tensor = tensor.detach()
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.cpu() if receive else whole


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a full tensor, laid out as `like`. No communication: every rank has the full one."""
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value


def weights(module: nn.Module, *, trainable: bool, receive: bool) -> Iterator[tuple[str, Tensor]]:
    """Names and full tensors of the parameters (all: and of the buffers that belong to a checkpoint)."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or not trainable:
            whole = full(parameter, receive)
            if receive:
                yield name, whole
    if not trainable and receive:
        yield from buffers(module)


def buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and full tensors of the buffers that belong to a checkpoint."""
    persistent = module.state_dict(keep_vars=True).keys()
    yield from ((name, full(buffer, True)) for name, buffer in module.named_buffers() if name in persistent)


@torch.no_grad()
def load_weights(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put weights back by name. Raises TkError where a name is unknown or a shape differs."""
    known = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    check_shapes(values, {name: tensor.shape for name, tensor in known.items()})
    for name, value in values.items():
        known[name].copy_(sharded_like(value, known[name]))


def check_shapes(values: Mapping[str, Tensor], known: Mapping[str, torch.Size]) -> None:
    """Raises TkError where saved weights are of another model."""
    for name, value in values.items():
        if name not in known:
            raise TkError(f"The checkpoint has weights {name!r}, which this model does not: another model or tuner.")
        if known[name] != value.shape:
            raise TkError(f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(known[name])} here.")


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, *, receive: bool) -> dict[str, Tensor]:
    """State of the optimizer as `parameter name/key` -> full tensor; numbers as tensors `name/key:type`."""
    found: dict[str, Tensor] = {}
    for name, parameter in _optimized(module, optimizer):
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            if value is None:
                continue
            key, tensor = as_tensor(key, value, optimizer)
            whole = full(tensor, receive)
            if receive:
                found[f"{name}/{key}"] = whole
    return found


def as_tensor(key: str, value: Any, optimizer: torch.optim.Optimizer) -> tuple[str, Tensor]:
    """An entry of the optimizer's state as it is saved: a number as a tensor `key:type`. Raises TkError for others."""
    if isinstance(value, Tensor):
        return key, value
    if type(value) in _NUMBERS.values():
        return f"{key}:{type(value).__name__}", torch.tensor(value, dtype=torch.float64)
    raise TkError(f"{type(optimizer).__name__} keeps a {type(value).__name__}, which cannot be saved.")


def by_parameter(values: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Saved state by parameter name and key."""
    found: dict[str, dict[str, Tensor]] = {}
    for flat, value in values.items():
        name, _, key = flat.rpartition("/")
        found.setdefault(name, {})[key] = value
    return found


def load_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor]) -> None:
    """Put the state of an optimizer back, sharded as its parameters are. Raises TkError for unknown parameters."""
    by_name = by_parameter(values)
    known = dict(_optimized(module, optimizer))
    unknown = sorted(set(by_name) - set(known))
    if unknown:
        raise TkError(f"The checkpoint has optimizer state of {unknown[0]!r}, which is not trained here.")
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, entries in by_name.items():
        parameter = known[name]
        group = groups[id(parameter)]
        restored = dict(_restored(parameter, key, value, group) for key, value in entries.items())
        if type(optimizer).__module__.startswith("torch.optim"):  # theirs have the type of the parameter
            restored = {key: _typed_like(value, parameter) for key, value in restored.items()}
        optimizer.state[parameter] = restored


def _typed_like(value: Any, parameter: Tensor) -> Any:
    """A tensor of numbers in the type of the parameter, which may differ from the one that it was saved with."""
    whole = isinstance(value, Tensor) and value.dim() and value.is_floating_point()
    return value.to(parameter.dtype) if whole else value


def _restored(parameter: Tensor, key: str, value: Tensor, group: Mapping[str, Any]) -> tuple[str, Any]:
    """An entry of a parameter's state, in a group of the optimizer."""
    if value.shape == parameter.shape and value.dim() and ":" not in key:
        return key, sharded_like(value, parameter)
    if value.dim() and isinstance(parameter, DTensor):
        raise TkError(f"The optimizer state {key!r} is not laid out as its parameter and cannot be sharded again.")
    return restored_number(key, value, group, parameter.device)


def restored_number(key: str, value: Tensor, group: Mapping[str, Any], device: torch.device) -> tuple[str, Any]:
    """An entry that is not laid out as its parameter: single numbers (the steps made) are where the optimizer counts them."""
    plain, _, kind = key.partition(":")
    if kind:
        return plain, _NUMBERS[kind](value.item())
    there = value.dim() or group.get("fused") or group.get("capturable")
    return key, value.to(device if there else torch.device("cpu"), copy=True)


def _optimized(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    chosen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    yield from ((name, p) for name, p in module.named_parameters() if id(p) in chosen)
