"""What the running trainer offers to a source: statistics of any role, and the weights as they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from tk import engines
from tk.compose import Plan
from tk.contracts import Batch, Completion, Engine, Medium, Moment, Pass, Request, Rows, Sampling, Strategy, World
from tk.errors import UsageError
from tk.sample import Sample
from tk_parallel.processes import exchange
from tk_torch.assemble import Parts, load
from tk_torch.compiled import uncompiled
from tk_torch.precision import computing
from tk_torch.ranks import together
from tk_torch.settings import Configured
from tk_torch.speed import Speed
from tk_torch.update import to_device

PLAIN = ("ids", "sampling", "stop_ids", "adapter", "prompt_logps", "model_logps")
"""Fields of a request that are told from rank to rank; media are refused before, messages are for judges."""


class Running(Configured):
    """The Session of a run. Every rank calls it equally often. moment: how far the run is."""

    def __init__(
        self, plan: Plan, parts: Parts, module: nn.Module, strategy: Strategy, world: World, speed: Speed
    ) -> None:
        super().__init__(plan)
        self.world, self.template, self.layout = world, parts.template, parts.layout
        self._plan, self._parts = plan, parts
        self._module = module
        self._strategy, self._speed = strategy, speed
        self._given: int | None = None  # the step whose weights the engine was told of
        self.moment: Callable[[], Moment] = Moment

    def close(self) -> None:
        """End the engine, and what rewards have left running."""
        if "_engine" in vars(self):
            self._engine.close()
        self._parts.scoring.close()

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """By the run's engine, with the weights as they stand.

        Raises TkError, on every rank, for a request that fails on any; UsageError for an engine that cannot be used here.
        """
        step = self.moment().step
        follows, self._given = self._given == step, step
        if self._supports("shared-module"):
            return together(self._strategy, lambda: self._answered(requests, () if not follows else None, step))
        return self._asked_of_one(requests, None if follows else self.weights(), step)

    def _asked_of_one(
        self, requests: Sequence[Request], weights: Iterator[tuple[str, Tensor]] | None, step: int
    ) -> list[list[Completion]]:
        """By an engine with weights of its own, which the first rank asks for all of them."""
        media = next((request.media for request in requests if request.media), None)
        together(self._strategy, lambda: _refuse(media))
        asked = self.gather([msgspec.to_builtins({name: getattr(r, name) for name in PLAIN}) for r in requests])
        first = self.world.rank == 0
        every = [
            Request(**{**told, "sampling": msgspec.convert(told["sampling"], Sampling)})
            for part in asked
            for told in part
        ]
        found = together(self._strategy, lambda: self._answered(every, weights, step) if first else [])
        answers = self.gather(msgspec.to_builtins(found))[0]
        begin = sum(len(part) for part in asked[: self.world.rank])
        return msgspec.convert(answers[begin : begin + len(requests)], list[list[Completion]])

    def _answered(
        self, requests: Sequence[Request], weights: Iterable[tuple[str, Tensor]] | None, step: int
    ) -> list[list[Completion]]:
        """weights: told to the engine first, where there are new ones."""
        if weights is not None:
            self._engine.update(weights, step)
        return self._generate(requests) if requests else []

    def _generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self._module.eval()
        try:
            with (
                self._speed.phase("generate"),
                torch.no_grad(),
                uncompiled(self._module),
                computing(self._plan, self.world.device),
            ):
                return engines.generate(self._engine, requests)
        finally:
            if self._supports("sleep"):
                self._engine.sleep()
            self._parts.training_mode(self._module)

    @cached_property
    def _engine(self) -> Engine:
        chosen = self._plan.one("engine")
        why = cannot_follow(self._plan)
        if why:
            raise UsageError(f"engine {chosen.name}: {why}.")
        engine: Engine = chosen.build(model=self._parts.policy, folder=Path(self._plan.config.output.dir) / "engine")
        return engine

    def _supports(self, word: str) -> bool:
        return word in self._plan.one("engine").component.spec.supports

    def reward(self, samples: Sequence[Sample], completions: Sequence[Completion]) -> dict[str, Sequence[float | None]]:
        """Raises TkError, on every rank, for a reward that misbehaves on any."""
        flat = list(zip(samples, completions, strict=True))
        with self._speed.phase("reward"):
            scores = together(self._strategy, lambda: self._parts.scoring(flat, self.moment()) if flat else {})
            return dict(scores)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value."""
        return exchange(self._strategy.gather, value)

    def score(self, batches: Sequence[Batch], passes: Sequence[Pass]) -> list[Mapping[str, Rows]]:
        """Statistics of each batch, without gradient and without dropout."""
        self._module.eval()
        try:
            with self._speed.phase("score"), torch.no_grad(), uncompiled(self._module):
                moved = [to_device(batch, self.world.device) for batch in batches]
                return [self._module(batch.inputs, batch.fields, passes) for batch in moved]
        finally:
            self._parts.training_mode(self._module)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names of the checkpoint and full tensors, adapters merged; every rank calls it, rank 0 receives them.

        Merged into a copy on the CPU that is loaded anew, so that the weights in training are not touched.
        """
        trained = role_weights(self._parts, dict(self._strategy.weights(self._module, trainable=True)))
        return iter(()) if self.world.rank else self._merged(trained)

    def _merged(self, trained: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        first = self._parts.first
        role = next(role for role in self._parts.roles if role.name == first)
        with torch.random.fork_rng(devices=[]):
            model = load(self._plan, role, "cpu", "fp32")
            tuner = self._plan.one("tuner").build()
            tuner.attach(model)
            if self._parts.start:
                self._parts.start.load_into(first, model, tuner)
        known = dict(model.module.named_parameters())
        with torch.no_grad():
            for name, value in trained[first].items():
                known[name].copy_(value)
        tuner.merge(model)
        yield from ((name, value.detach()) for name, value in model.module.state_dict().items())


def _refuse(media: Sequence[Medium] | None) -> None:
    if media is not None:
        raise UsageError(f"A request has an {media[0].type}, which is not sent to an engine with weights of its own.")


def cannot_follow(plan: Plan) -> str:
    """Why the run's engine cannot generate with the weights in training; "" where it can."""
    supports = plan.one("engine").component.spec.supports
    if "shared-module" not in supports and "weight-update" not in supports:
        return "its weights cannot be replaced, so that it would go on with those from before the training"
    if "shared-module" in supports and "sharding" in plan.one("strategy").component.spec.supports:
        return "it generates on the trainer's module, whose weights are sharded: use the strategy ddp"
    return ""


def role_weights(parts: Parts, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Weights of the scored model by role, with the names that they have in the role's own module."""
    names = {id(module): name for name, module in parts.scored.named_modules()}
    found: dict[str, dict[str, Tensor]] = {}
    for role, model in parts.models.items():
        prefix = names[id(model.module)] + "."
        found[role] = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    return found
