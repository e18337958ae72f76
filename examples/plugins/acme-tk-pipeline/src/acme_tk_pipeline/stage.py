"""This process's half of a run's models, called as the whole would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from acme_tk_pipeline.cut import Halves, cut
from acme_tk_pipeline.link import Link
from tk.contracts import Pass, World
from tk_parallel import processes
from tk_tensor.scored import ScoredModel

FIRST, LAST = 0, 1


def shared(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """The last process's tensors by name, on both."""
    own = save({n: t.contiguous() for n, t in tensors.items()}) if world.rank == LAST else b""
    parts = processes.gather(torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else torch.empty(0).byte())
    return load(parts[LAST].numpy().tobytes())


class Stage(nn.Module):
    """A scored model of which this process keeps one half.

    scored: what is left of it. tied: own weights that the other process has too, by the names here -> the whole model's.
    """

    def __init__(self, scored: ScoredModel, world: World, halves: Mapping[str, Halves]) -> None:
        super().__init__()
        self.scored = scored
        self.world = world
        self.link = Link(peer=1 - world.rank)
        self.halves = halves
        whole = {p: name for name, p in scored.named_parameters()}
        self._taken: dict[str, dict[str, nn.Module]] = {}
        for key, at in halves.items():
            self._taken[key] = cut(scored.modules_by_role[key], at, world.rank, self.link)
        own = {p: name for name, p in scored.named_parameters()}
        self.tied = {own[p]: whole[p] for at in halves.values() for p in at.tied}

    def forward(
        self, inputs: Mapping[str, Any], fields: Mapping[str, Any], passes: Sequence[Pass]
    ) -> dict[str, dict[str, Tensor]]:
        """Statistics by pass and name: with gradient on the last process only ({} on the first); without, on both."""
        first = self.world.rank == FIRST
        asked = [replace(p, wants=()) for p in passes] if first else passes
        outputs = self.scored(inputs, fields, asked)
        if torch.is_grad_enabled():
            return {} if first else outputs
        flat = {f"{key}/{name}": value for key, stats in outputs.items() for name, value in stats.items()}
        found: dict[str, dict[str, Tensor]] = {p.key: {} for p in passes}
        for path, value in shared(flat, self.world).items():
            key, _, name = path.rpartition("/")
            found[key][name] = value
        self.link.settle()
        return found

    def tied_weights(self) -> list[nn.Parameter]:
        """What both processes hold, in one order."""
        return [self.scored.get_parameter(name) for name in self.tied]

    def held(self) -> dict[str, Any]:
        """Parts and number of parameters of this process, for the record."""
        parts = {key: at.parts[self.world.rank] for key, at in self.halves.items()}
        return {"parts": parts, "parameters": sum(p.numel() for p in self.scored.parameters())}

    def close(self) -> None:
        """Put back what was taken out, without weights: the models have their whole shapes again, for writing them."""
        for key, taken in self._taken.items():
            for path, part in taken.items():
                self.scored.modules_by_role[key].set_submodule(path, part)
