"""The module that a strategy wraps: all models of a run, and all forwards that a method asks for in one call.

Head and statistics stand inside, so that gradient exchange and sharding see everything that is differentiated, and see
it once a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tk.contracts import LoadedModel, Pass, Role, Stat, Tuner
from tk.errors import TkError
from tk_tensor.head import STATISTICS, Projection, statistics, wide
from tk_tensor.probe import at_rest
from tk_tensor.route import Route, route_of

MODULES = "modules_by_role"
"""Name of the scored model's part that holds the roles' modules; what names of its weights begin with."""


@dataclass(frozen=True)
class Seat:
    """Where a role's statistics come from: a module by its key, the way through it, and what switches its adapter off."""

    key: str
    route: Route
    untuned: Callable[[nn.Module], AbstractContextManager[None]] | None = None


class ScoredModel(nn.Module):
    """Backbone → selected positions → head → statistics, for each pass of a batch.

    modules_by_role: the distinct modules by the role that owns each. chunk: positions whose logits are in memory at once.
    """

    def __init__(self, modules: Mapping[str, nn.Module], seats: Mapping[str, Seat], chunk: int = 1024) -> None:
        super().__init__()
        self.modules_by_role = nn.ModuleDict(modules)
        self.seats = dict(seats)
        self.chunk = chunk

    def forward(
        self, inputs: Mapping[str, Any], fields: Mapping[str, Any], passes: Sequence[Pass]
    ) -> dict[str, dict[str, Tensor]]:
        """Statistics by `pass.key` and name, in single precision.

        inputs: of the models' forward. fields: `select` and `targets` for statistics of tokens; `segments` and `lengths`
        for `pooled`, `ends` for `score`; `head_chunks` (int) where ranks agreed on the calls of the head.
        Passes without gradient come first and run without dropout.
        """
        keys = [p.key for p in passes]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two passes have one key: {keys}")
        outputs: dict[str, dict[str, Tensor]] = {}
        for request in sorted(passes, key=lambda p: p.grad):
            seat = self.seats[request.role]
            module = self.modules_by_role[seat.key]
            with ExitStack() as stack:
                stack.enter_context(torch.set_grad_enabled(request.grad and torch.is_grad_enabled()))
                if not request.grad:
                    stack.enter_context(at_rest(module))
                if seat.untuned is not None:
                    stack.enter_context(seat.untuned(module))
                outputs[request.key] = self._score(module, seat.route, inputs, fields, request.wants)
        return outputs

    def _score(
        self,
        module: nn.Module,
        route: Route,
        inputs: Mapping[str, Any],
        fields: Mapping[str, Any],
        wants: Sequence[Stat],
    ) -> dict[str, Tensor]:
        if len({w.name for w in wants}) < len(wants):
            raise ValueError(
                "a pass asks for one statistic at two temperatures: give each a pass with an id of its own"
            )
        found: dict[str, Tensor] = {}
        if route.whole_scores and any(w.name == "score" for w in wants):
            found["score"] = wide(route.scores(module, inputs))
            wants = [w for w in wants if w.name != "score"]
        vocabulary = [w for w in wants if w.name in STATISTICS]
        others = [w for w in wants if w.name not in STATISTICS]
        hidden = route.hidden(module, inputs) if others or route.decoder is not None else None
        for want in others:
            found[want.name] = HIDDEN[want.name](route, module, hidden, fields)
        if vocabulary:
            if route.decoder is not None:
                project, rows = route.projection(module), hidden.index_select(0, fields["select"])  # type: ignore[union-attr]
            else:
                project, rows = Projection(None), route.logits(module, inputs, fields["select"])
            found |= statistics(project, rows, fields.get("targets"), vocabulary, self.chunk, fields.get("head_chunks"))
        return found


def _value(route: Route, module: nn.Module, hidden: Tensor, fields: Mapping[str, Any]) -> Tensor:
    values = wide(route.label_head(module)(hidden.index_select(0, fields["select"])))
    if values.shape[-1] != 1:
        raise TkError(f"the value head of {type(module).__name__} gives {values.shape[-1]} numbers a token, not one")
    return values.sum(-1)


def _score(route: Route, module: nn.Module, hidden: Tensor, fields: Mapping[str, Any]) -> Tensor:
    return wide(route.label_head(module)(hidden.index_select(0, fields["ends"])))


def _pooled(route: Route, module: nn.Module, hidden: Tensor, fields: Mapping[str, Any]) -> Tensor:
    segments, lengths = fields["segments"].reshape(-1), fields["lengths"]
    # Padding goes to a row of its own, which is dropped: no shape depends on the data.
    index = torch.where(segments < 0, len(lengths), segments)
    states = wide(hidden)
    sums = states.new_zeros(len(lengths) + 1, states.shape[-1]).index_add(0, index, states)[:-1]
    return F.normalize(sums / lengths[:, None], dim=-1)


HIDDEN: Mapping[str, Callable[[Route, nn.Module, Any, Mapping[str, Any]], Tensor]] = {
    "value": _value,
    "score": _score,
    "pooled": _pooled,
}
"""On hidden states [B·T, H]: value [N], score [R, labels], pooled [R, H] (mean over a sample's tokens, of length 1)."""


def build_scored(
    models: Mapping[str, LoadedModel], roles: Sequence[Role], tuner: Tuner | None = None, chunk: int = 1024
) -> ScoredModel:
    """The scored module of a run. models: by role, for the roles with a module of their own (`role.of` is empty).

    tuner: what switches an adapter off, where a role asks for it.

    Raises TkError where a role has no model, or shares one that is not there.
    """
    owners = {role.name: role.of or role.name for role in roles}
    seats: dict[str, Seat] = {}
    routes: dict[str, Route] = {}
    for role in roles:
        key = role.name
        while owners.get(key, key) != key:
            key = owners[key]
        if key not in models:
            raise TkError(f"role {role.name!r} needs the model of role {key!r}, which was not loaded")
        if key not in routes:
            routes[key] = route_of(models[key].module)
        if role.head.kind in ("value", "score") and routes[key].labels is None:
            raise TkError(
                f"role {role.name!r} needs a {role.head.kind} head, and {type(models[key].module).__name__} has none"
            )
        seats[role.name] = Seat(key, routes[key], tuner.adapter_off if role.adapter_off and tuner else None)
    return ScoredModel({key: models[key].module for key in routes}, seats, chunk)
