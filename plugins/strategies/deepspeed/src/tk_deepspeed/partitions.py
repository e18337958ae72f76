"""Where DeepSpeed keeps what it updates: flat tensors, of which each process holds a partition.

Full tensors are read out of them and put back by parameter, so that a checkpoint depends neither on the stage nor on
the number of processes. `deepspeed.utils.safe_get_…` reads the same, but has no way for state before the first step, nor
for partitions that end in padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tk.errors import TkError
from tk_parallel import processes, state


@dataclass(frozen=True)
class Place:
    """A parameter's place in this process's partition: `flat[at : at + size]` are its elements from `start` on."""

    flat: Tensor
    at: int = 0
    start: int = 0
    size: int = 0


class Partitions:
    """Of an engine at stage 1, 2 or 3."""

    def __init__(self, engine: Any, rank: int) -> None:
        self.zero = engine.optimizer
        self.optimizer: torch.optim.Optimizer = engine.optimizer.optimizer
        self._rank = rank
        self._groups = {id(p): i for i, group in enumerate(_groups(self.zero)) for p in group}

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """Whether it is updated."""
        return id(parameter) in self._groups

    def forget_gradients(self) -> None:
        """What DeepSpeed does of a step whose gradients are not finite, before the step."""
        zero: Any = self.zero
        zero.zero_grad(set_to_none=True)
        if hasattr(zero, "clear_hp_grads"):  # bf16 at stage 1
            zero.clear_hp_grads()
            zero.clear_lp_grads()
            return
        if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
            zero.averaged_gradients = {}
        else:
            zero.micro_step_id = -1
            for kept in (zero.averaged_gradients, zero.all_grad_tensors):
                kept.update(dict.fromkeys(kept))
        if getattr(zero, "cpu_offload", False) or getattr(zero, "offload_optimizer", False):
            zero.reset_cpu_buffers()

    def place(self, parameter: nn.Parameter) -> Place:
        zero: Any = self.zero
        group = self._groups[id(parameter)]
        if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3: each parameter is cut into equal parts
            group, at, size = zero.grad_position[zero.get_param_id(parameter)]
            start = self._rank * size
            size = max(0, min(size, parameter.ds_numel - start))  # type: ignore[attr-defined]
            return Place(zero.fp32_partitioned_groups_flat[group], at, start, size)
        flat: Tensor = self.optimizer.param_groups[group]["params"][0]
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return Place(flat)
        own, of = mapping.hp_fragment_address, mapping.lp_fragment_address
        return Place(flat, own.start, of.start, own.numel)

    def whole(self, parameter: nn.Parameter, flat: Tensor | None = None) -> Tensor:
        """The full tensor of a parameter, from its place in the weights that are updated, or in another flat tensor like
        them. Every process calls it."""
        place, shape = self.place(parameter), shape_of(parameter)
        flat = place.flat if flat is None else flat
        found = torch.zeros(shape.numel(), dtype=flat.dtype, device=parameter.device)
        found[place.start : place.start + place.size] = flat.detach()[place.at : place.at + place.size]
        return processes.all_reduce(found).view(shape)

    @torch.no_grad()
    def put(self, parameter: nn.Parameter, value: Tensor, flat: Tensor | None = None) -> None:
        """A full tensor into the same place; no communication."""
        place = self.place(parameter)
        flat = place.flat if flat is None else flat
        flat[place.at : place.at + place.size] = value.flatten()[place.start : place.start + place.size].to(flat)

    def flats(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[Tensor, list[str]]]:
        """Each flat tensor that is updated, with the names of its parameters."""
        by_flat: dict[int, tuple[Tensor, list[str]]] = {}
        for name, parameter in parameters.items():
            if parameter in self:
                flat = self.place(parameter).flat
                by_flat.setdefault(id(flat), (flat, []))[1].append(name)
        yield from by_flat.values()

    def state(self, parameters: Mapping[str, nn.Parameter], *, receive: bool) -> dict[str, Tensor]:
        """State of the optimizer as `parameter name/key`, as the other strategies give it."""
        found: dict[str, Tensor] = {}
        for flat, names in self.flats(parameters):
            for key, value in sorted(self.optimizer.state.get(flat, {}).items()):
                if value is None:
                    continue
                split = isinstance(value, Tensor) and value.shape == flat.shape
                key, kept = (key, value) if split else state.as_tensor(key, value, self.optimizer)
                for name in names:
                    one = self.whole(parameters[name], kept) if split else kept
                    if receive:
                        found[f"{name}/{key}"] = one.detach().cpu().clone()
        return found

    def load_state(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        """Put the state back. Raises TkError for parameters that are not trained, or whose state cannot share a tensor."""
        by_name = state.by_parameter(values)
        unknown = [name for name in sorted(by_name) if name not in parameters or parameters[name] not in self]
        if unknown:
            raise TkError(f"The checkpoint has optimizer state of {unknown[0]!r}, which is not trained here.")
        for flat, names in self.flats(parameters):
            entries = [by_name.get(name, {}) for name in names]
            for name, own in zip(names, entries, strict=True):
                if own.keys() != entries[0].keys():
                    raise TkError(
                        f"The optimizer state of {name!r} and {names[0]!r} differs in kind; DeepSpeed keeps them in one."
                    )
            restored = dict(self._joined(flat, parameters, names, key, entries) for key in entries[0])
            if restored:
                self.optimizer.state[flat] = restored

    def _joined(
        self,
        flat: Tensor,
        parameters: Mapping[str, nn.Parameter],
        names: list[str],
        key: str,
        entries: list[dict[str, Tensor]],
    ) -> tuple[str, Any]:
        values = [own[key] for own in entries]
        if all(v.dim() and v.shape == shape_of(parameters[n]) for n, v in zip(names, values, strict=True)):
            joined = torch.zeros_like(flat, requires_grad=False)
            for name, value in zip(names, values, strict=True):
                self.put(parameters[name], value, joined)
            return key, joined
        if any(not torch.equal(value, values[0]) for value in values):
            raise TkError(f"The optimizer's {key!r} differs between parameters; DeepSpeed keeps one for all of them.")
        return state.restored_number(key, values[0], self.optimizer.param_groups[0], flat.device)


def _groups(zero: Any) -> list[list[nn.Parameter]]:
    """The parameters of each flat tensor, under the name that each of DeepSpeed's optimizers has for them."""
    found: list[list[nn.Parameter]] = next(
        getattr(zero, name) for name in ("bit16_groups", "bf16_groups", "fp16_groups") if hasattr(zero, name)
    )
    return found


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Its shape, also where only a partition of it is here."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
