"""What the running trainer offers to a source: statistics of any role, and the weights as they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tk.compose import Plan
from tk.contracts import Batch, Pass, Rows, Strategy, World
from tk.errors import TkError
from tk_torch.assemble import Parts, load
from tk_torch.update import to_device


class Running:
    """The Session of a run. Every rank calls it equally often."""

    def __init__(self, plan: Plan, parts: Parts, module: nn.Module, strategy: Strategy, world: World) -> None:
        self._plan = plan
        self._parts = parts
        self._module = module
        self._strategy = strategy
        self._world = world

    def score(self, batches: Sequence[Batch], passes: Sequence[Pass]) -> list[Mapping[str, Rows]]:
        """Statistics of each batch, without gradient and without dropout."""
        self._module.eval()
        try:
            with torch.no_grad():
                moved = [to_device(batch, self._world.device) for batch in batches]
                return [self._module(batch.inputs, batch.fields, passes) for batch in moved]
        finally:
            self._parts.training_mode(self._module)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names of the checkpoint and full tensors, adapters merged; every rank calls it, rank 0 receives them.

        Merged into a copy on the CPU that is loaded anew, so that the weights in training are not touched.
        """
        trained = role_weights(self._parts, dict(self._strategy.weights(self._module, trainable=True)))
        if self._world.rank:
            return
        first = self._parts.first
        role = next(role for role in self._parts.roles if role.name == first)
        with torch.random.fork_rng():
            model = load(self._plan, role, "cpu")
            tuner = self._plan.one("tuner").build()
            tuner.attach(model)
        known = dict(model.module.named_parameters())
        with torch.no_grad():
            for name, value in trained[first].items():
                known[name].copy_(value)
        tuner.merge(model)
        yield from ((name, value.detach()) for name, value in model.module.state_dict().items())


class Unstarted:
    """The Session of a run that is only planned: it has no weights to ask for."""

    def score(self, batches: Sequence[Batch], passes: Sequence[Pass]) -> list[Mapping[str, Rows]]:
        raise TkError("The run is only planned: there is no model to score with.")

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        raise TkError("The run is only planned: there are no weights.")


def role_weights(parts: Parts, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Weights of the scored model by role, with the names that they have in the role's own module."""
    names = {id(module): name for name, module in parts.scored.named_modules()}
    found: dict[str, dict[str, Tensor]] = {}
    for role, model in parts.models.items():
        prefix = names[id(model.module)] + "."
        found[role] = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    return found
