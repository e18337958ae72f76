"""The strategy `pipeline`: a model cut in two; its norm, weights and optimizer state are those of both halves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from acme_tk_pipeline.cut import Halves, halves
from acme_tk_pipeline.options import PipelineOptions
from acme_tk_pipeline.stage import FIRST, LAST, Stage, shared
from tk.contracts import World
from tk_parallel import state
from tk_parallel.strategy import TorchStrategy
from tk_tensor.scored import ScoredModel


class PipelineStrategy(TorchStrategy):
    """Built as `PipelineStrategy(options)`. Wraps a ScoredModel; computes on the CPU, over gloo."""

    def __init__(self, options: PipelineOptions) -> None:
        super().__init__(options.timeout)
        self._options = options
        self._tied: list[nn.Parameter] = []

    def start(self) -> World:
        self.world = replace(super().start(), device="cpu")
        return self.world

    def halves(self, scored: ScoredModel) -> dict[str, Halves]:
        """Where each model of a run is cut. Raises UsageError for one that cannot be."""
        routes = {seat.key: seat.route for seat in scored.seats.values()}
        modules = scored.modules_by_role.items()
        return {key: halves(module, routes[key], self._options.first_layers) for key, module in modules}

    def spread(self, module: nn.Module, precision: str) -> Stage:
        assert isinstance(module, ScoredModel)
        stage = Stage(module, self.world, self.halves(module))
        self._tied = stage.tied_weights()
        return stage

    def plain(self, module: nn.Module) -> nn.Module:
        return module.scored if isinstance(module, Stage) else module

    def synchronise(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        for parameter in self._tied:
            if parameter.grad is not None:
                parameter.grad = self.sum(parameter.grad)
        return super().step(module, optimizer)

    def norm(self, gradients: list[Tensor]) -> float:
        """Over both halves; a tied weight counts once."""
        twice = [p.grad for p in self._tied] if self.world.rank == LAST else []
        own = super().norm([g for g in gradients if not any(g is t for t in twice)])
        return math.sqrt(float(self.sum(torch.tensor(own, dtype=torch.float64).square())))

    def weights(self, module: nn.Module, trainable: bool) -> Iterator[tuple[str, Tensor]]:
        inner = self.plain(module)
        tied = {name for name, p in inner.named_parameters() if any(p is t for t in self._tied)}
        own = dict(state.weights(inner, trainable=trainable, receive=True))
        return iter(self._whole(own, tied).items())

    def optimizer_state(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
        tied = set(module.tied) if isinstance(module, Stage) else set()
        return self._whole(state.optimizer_state(self.plain(module), optimizer, receive=True), tied)

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        weights: Mapping[str, Tensor],
        state_: Mapping[str, Tensor],
    ) -> None:
        assert isinstance(module, Stage)
        super().restore(module, optimizer, _half(module, weights), _half(module, state_))

    def _whole(self, own: Mapping[str, Tensor], tied: set[str]) -> dict[str, Tensor]:
        """Tensors by name (`name/key`) of both halves, on the first process."""
        theirs = shared({n: value for n, value in own.items() if n.partition("/")[0] not in tied}, self.world)
        return {**own, **theirs} if self.world.rank == FIRST else {}


def _half(stage: Stage, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a whole model's tensors (`name`, `name/key`) that this process has a place for, by the names here."""
    here = {whole: name for name, whole in stage.tied.items()}
    known = {name for name, _ in (*stage.scored.named_parameters(), *stage.scored.named_buffers())}
    found = {}
    for path, value in values.items():
        name, slash, key = path.partition("/")
        name = here.get(name, name)
        if name in known:
            found[name + slash + key] = value
    return found
