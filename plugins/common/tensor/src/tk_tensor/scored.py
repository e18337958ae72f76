"""The module that a strategy wraps: all models of a run, and all forwards that a method asks for in one call.

Head and statistics stand inside, so that gradient exchange and sharding see everything that is differentiated, and see
it once a micro-batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tk.contracts import LoadedModel, Pass, Pooling, Role, Tuner
from tk.errors import TkError
from tk_tensor.head import STATISTICS, Projection, statistics, wide
from tk_tensor.probe import at_rest
from tk_tensor.route import Route, route_of
from tk_tensor.surroundings import Surrounding

MODULES = "modules_by_role"
"""Name of the scored model's part that holds the roles' modules; what names of its weights begin with."""


@dataclass(frozen=True)
class Seat:
    """Where a role's statistics come from: a module by its key, the way through it, and what switches its adapter off.

    head: key of a head that the role has of its own, on another role's module; "" for the module's.
    pooling: how a vector is made of a sequence.
    """

    key: str
    route: Route
    untuned: Callable[[nn.Module], AbstractContextManager[None]] | None = None
    head: str = ""
    pooling: Pooling = "mean"


States = dict[tuple[str, bool, bool, int], Tensor]
"""Hidden states of a batch, [B·T, H], by module, whether they are differentiated, whether the adapter is off, and which
of a role's passes they are for."""


class ScoredModel(nn.Module):
    """Backbone → selected positions → head → statistics, for each pass of a batch.

    modules_by_role: the distinct modules by the role that owns each. heads_by_role: linear heads on another role's module.
    chunk: positions whose logits are in memory at once. surroundings: what passes that are differentiated run within.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        seats: Mapping[str, Seat],
        chunk: int = 1024,
        heads: Mapping[str, nn.Module] | None = None,
        surroundings: Sequence[Surrounding] = (),
    ) -> None:
        super().__init__()
        self.modules_by_role = nn.ModuleDict(modules)
        self.heads_by_role = nn.ModuleDict(heads or {})
        self.seats = dict(seats)
        self.chunk = chunk
        self.surroundings = tuple(surroundings)

    def forward(
        self, inputs: Mapping[str, Any], fields: Mapping[str, Any], passes: Sequence[Pass]
    ) -> dict[str, dict[str, Tensor]]:
        """Statistics by `pass.key` and name, in single precision.

        inputs: of the models' forward. fields: `select` and `targets` for statistics of tokens; `segments`, `lengths` and
        `lasts` for `pooled`, `ends` for `score`; `given`: statistics that are known already, by key and name, for which no
        model is asked.
        Passes without gradient come first and run without dropout. A pass is a forward, but where roles share a
        module: the first passes of each are one, and so on.
        """
        keys = [p.key for p in passes]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two passes have one key: {keys}")
        outputs: dict[str, dict[str, Tensor]] = {}
        states: States = {}
        asked: Counter[tuple[str, bool]] = Counter()
        given: Mapping[str, Mapping[str, Tensor]] = fields.get("given", {})
        for request in sorted(passes, key=lambda p: p.grad):
            if request.key in given:
                outputs[request.key] = dict(given[request.key])
                continue
            if request.role not in self.seats:
                raise TkError(f"role {request.role!r} is precomputed, and a batch comes without what it says of it")
            seat = self.seats[request.role]
            module = self.modules_by_role[seat.key]
            with ExitStack() as stack:
                stack.enter_context(torch.set_grad_enabled(request.grad and torch.is_grad_enabled()))
                if not request.grad:
                    stack.enter_context(at_rest(module))
                if seat.untuned is not None:
                    stack.enter_context(seat.untuned(module))
                for surrounding in self.surroundings if request.grad else ():
                    stack.enter_context(surrounding(module, inputs, fields))
                outputs[request.key] = self._score(request, inputs, fields, states, asked[request.role, request.grad])
            asked[request.role, request.grad] += 1
        return outputs

    def leave(self, role: str) -> None:
        """A frozen role takes no further part; its module goes, where no other role has it."""
        key = self.seats.pop(role).key
        if all(seat.key != key for seat in self.seats.values()):
            del self.modules_by_role[key]

    def _score(
        self, request: Pass, inputs: Mapping[str, Any], fields: Mapping[str, Any], states: States, number: int
    ) -> dict[str, Tensor]:
        seat, wants = self.seats[request.role], request.wants
        module, route = self.modules_by_role[seat.key], seat.route
        if len({w.name for w in wants}) < len(wants):
            raise ValueError(
                "a pass asks for one statistic at two temperatures: give each a pass with an id of its own"
            )
        found: dict[str, Tensor] = {}
        if route.whole_scores and not seat.head and any(w.name == "score" for w in wants):
            found["score"] = wide(route.scores(module, inputs))
            wants = [w for w in wants if w.name != "score"]
        vocabulary = [w for w in wants if w.name in STATISTICS]
        others = [w for w in wants if w.name not in STATISTICS]
        shared = (seat.key, request.grad, seat.untuned is not None, number)
        if (others or route.decoder is not None) and shared not in states:
            states[shared] = route.hidden(module, inputs)
        for want in others:
            found[want.name] = (
                pooled(states[shared], fields, seat.pooling)
                if want.name == "pooled"
                else HIDDEN[want.name](self._head(seat), states[shared], fields)
            )
        if vocabulary:
            if route.decoder is not None:
                project, rows = route.projection(module), states[shared].index_select(0, fields["select"])
            else:
                project, rows = Projection(None), route.logits(module, inputs, fields["select"])
            found |= statistics(project, rows, fields.get("targets"), vocabulary, self.chunk)
        return found

    def _head(self, seat: Seat) -> Callable[[Tensor], Tensor]:
        """Values or scores of hidden states [n, H] by the head that a seat reads: [n, numbers], in single precision."""

        def read(rows: Tensor) -> Tensor:
            if not seat.head:
                return wide(seat.route.label_head(self.modules_by_role[seat.key])(rows))
            head: Any = self.heads_by_role[seat.head]
            return wide(head(rows.to(head.weight.dtype)))

        return read


def _value(read: Callable[[Tensor], Tensor], hidden: Tensor, fields: Mapping[str, Any]) -> Tensor:
    values = read(hidden.index_select(0, fields["select"]))
    if values.shape[-1] != 1:
        raise TkError(f"the value head gives {values.shape[-1]} numbers a token, not one")
    return values.sum(-1)


def _score(read: Callable[[Tensor], Tensor], hidden: Tensor, fields: Mapping[str, Any]) -> Tensor:
    return read(hidden.index_select(0, fields["ends"]))


def pooled(hidden: Tensor, fields: Mapping[str, Any], pooling: Pooling) -> Tensor:
    """[R, H] vectors of length 1 of the samples whose hidden states [B·T, H] are given."""
    segments, lengths = fields["segments"].reshape(-1), fields["lengths"]
    if pooling != "mean":
        places = fields["lasts"] if pooling == "last" else fields["lasts"] - lengths + 1
        return F.normalize(wide(hidden.index_select(0, places)), dim=-1)
    # Padding goes to a row of its own, which is dropped: no shape depends on the data.
    index = torch.where(segments < 0, len(lengths), segments)
    states = wide(hidden)
    sums = states.new_zeros(len(lengths) + 1, states.shape[-1]).index_add(0, index, states)[:-1]
    return F.normalize(sums / lengths[:, None], dim=-1)


HIDDEN: Mapping[str, Callable[[Callable[[Tensor], Tensor], Tensor, Mapping[str, Any]], Tensor]] = {
    "value": _value,
    "score": _score,
}
"""What is read off hidden states [B·T, H] by a head: value [N], score [R, labels]."""


def build_scored(
    models: Mapping[str, LoadedModel],
    roles: Sequence[Role],
    tuner: Tuner | None = None,
    chunk: int = 1024,
    surroundings: Sequence[Surrounding] = (),
) -> ScoredModel:
    """The scored module of a run. models: by role, for the roles with a module of their own (`role.of` is empty).

    tuner: what switches an adapter off, where a role asks for it. surroundings: of passes that are differentiated.

    Raises TkError where a role has no model, or shares one that is not there.
    """
    owners = {role.name: role.of or role.name for role in roles}
    seats: dict[str, Seat] = {}
    routes: dict[str, Route] = {}
    heads: dict[str, nn.Module] = {}
    for role in roles:
        key = role.name
        while owners.get(key, key) != key:
            key = owners[key]
        if key not in models:
            raise TkError(f"role {role.name!r} needs the model of role {key!r}, which was not loaded")
        if key not in routes:
            routes[key] = route_of(models[key].module)
        if key != role.name and role.trainable:
            heads[role.name] = _own_head(role, models[key].module)
        elif role.head.kind in ("value", "score") and routes[key].labels is None:
            raise TkError(
                f"role {role.name!r} needs a {role.head.kind} head, and {type(models[key].module).__name__} has none"
            )
        untuned = tuner.adapter_off if role.adapter_off and tuner else None
        own, pooling = role.name if role.name in heads else "", models[key].head.pooling or "mean"
        seats[role.name] = Seat(key, routes[key], untuned, own, pooling)
    return ScoredModel({key: models[key].module for key in routes}, seats, chunk, heads, surroundings)


def _own_head(role: Role, module: nn.Module) -> nn.Linear:
    """A value head for a trained role on another's module; it begins at 0, so that it changes nothing of that model."""
    if role.head.kind != "value":
        raise TkError(f"role {role.name!r} shares a module: what it can have of its own there is a value head")
    config: Any = module.config
    head = nn.Linear(config.get_text_config().hidden_size, 1, device=next(module.parameters()).device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head
