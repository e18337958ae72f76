"""How much memory a run will take, found by going through a step of it that computes nothing.

The models of a plan have shapes only (`tk_tensor.meter`). The heaviest window of the data goes through them as in the run:
forward, loss and backward of each micro-batch, the optimizer, an evaluation. What lives is counted by kind. Of P processes each
takes, at the moment when this is the most,

    weights · s_w + gradients · s_g + optimizer · s_o + gathered + activations + other

    weights      parameters and buffers of all roles, in the types that they are loaded in; what is tied once
    gradients    of the trained parameters, in their types: those that are there at that moment
    optimizer    the state that the optimizer has made for these parameters in a step
    activations  what autograd keeps for the backward pass, what is on its way, and the batch
    s, gathered  what the strategy says of the part of a process (`Share`): 1, 1, 1 and 0 where it holds whole models
    other        of a process without a model, where the device is the CPU: interpreter, libraries, data
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from tk.compose import Plan
from tk.contracts import Batch, Memory, ParamGroup, Pass, Rows, Share, Strategy, World
from tk.errors import TkError
from tk_data.evaluate import eval_batches
from tk_data.examples import ExampleSet
from tk_data.heaviest import Heaviest
from tk_tensor.given import PREFIX
from tk_tensor.meter import WORKING, Meter, weightless
from tk_tensor.nested import tensors
from tk_torch.assemble import Parts
from tk_torch.imagined import Alike, Imagined, zeros
from tk_torch.precision import computed_in, computing
from tk_torch.update import Updater, to_device

WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients", "optimizer"
SIDE = 256
"""Of a matrix, on which an optimizer is tried that does not work without numbers."""
ACCUMULATED = 2
"""Micro-batches of a window that are gone through: one, and another beside the gradients of the first."""


def estimate(plan: Plan, parts: Parts, world: World, other: int) -> tuple[Memory, Sequence[str]]:
    """The memory of a process of the run, and what there is to say of it.

    The models of `parts` are on the meta device, and cannot be used afterwards. other: bytes of a process without a model.
    """
    notes: list[str] = []
    share = _share(plan, parts, world, notes)
    rehearsal = _Rehearsal(plan, parts, world, kept=share.kept)
    notes += rehearsal.run()
    found = [_told(moment, bytes_, share, other) for moment, bytes_ in rehearsal.moments.items()]
    return replace(max(found, key=lambda memory: memory.total), complete=not rehearsal.unknown), notes


def _share(plan: Plan, parts: Parts, world: World, notes: list[str]) -> Share:
    chosen = plan.one("strategy")
    strategy = chosen.build()
    if not hasattr(strategy, "share"):
        if "sharding" in chosen.component.spec.supports and world.size > 1:
            notes.append(
                f"memory: strategy {chosen.name} does not tell what a process holds of what it shards: counted is the whole."
            )
        return Share()
    found: Share = strategy.share(parts.scored, world.size, computed_in(plan, world.device))
    return found


def _told(moment: str, found: Mapping[str, int], share: Share, other: int) -> Memory:
    weights = int(found.get(WEIGHTS, 0) * share.weights) + share.gathered
    gradients = int(found.get(GRADIENTS, 0) * share.gradients)
    optimizer = int(found.get(OPTIMIZER, 0) * share.optimizer)
    activations = found.get(WORKING, 0)
    total = weights + gradients + optimizer + activations + other
    return Memory(weights, gradients, optimizer, activations, other, total, moment)


class _Rehearsal:
    """The moments of a run at which it may take the most, with the bytes of each by kind.

    kept: gradients have their memory all the time. unknown: something could not be counted.
    """

    def __init__(self, plan: Plan, parts: Parts, world: World, *, kept: bool) -> None:
        self.plan, self.parts, self.world, self.kept = plan, parts, world, kept
        self.moments: dict[str, Mapping[str, int]] = {}
        self.precomputed = sorted(role.name for role in parts.roles if role.precomputed)
        self.unknown, self.works_without_numbers = False, True
        self.meter = Meter(torch.device(world.device).type)

    def run(self) -> list[str]:
        """Go through them. Returns what there is to say."""
        parts, meter = self.parts, self.meter
        weightless(parts.scored, self.world.device)
        meter.count(WEIGHTS, [*parts.scored.parameters(), *parts.scored.buffers()])
        with self._moment("loading"):
            pass
        try:
            self.optimizer: torch.optim.Optimizer = self.plan.one("optim").build()(parts.parameter_groups())
            with meter:
                self._update()
                self._go_through()
        except TkError:
            raise
        except Exception as error:  # noqa: BLE001 - what works on numbers may raise anything where there are none
            self.unknown = True
            why = next(iter(str(error).strip().splitlines()), "")
            return [
                f"memory: not all is counted: this run cannot be gone through without weights ({type(error).__name__}: {why})."
            ]
        return []

    @contextmanager
    def _moment(self, name: str, *kinds: str) -> Iterator[None]:
        """What is done here has a peak of its own. kinds: those that are there in a run; all unless given."""
        self.meter.forget()
        yield
        found = {kind: size for kind, size in self.meter.peak.items() if not kinds or kind in kinds}
        if sum(found.values()) > sum(self.moments.get(name, {}).values()):
            self.moments[name] = found

    def _update(self) -> None:
        """The optimizer makes its state, for gradients of nothing, and then updates the weights."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
            parameter.register_post_accumulate_grad_hook(lambda p: self.meter.count(GRADIENTS, [cast(Tensor, p.grad)]))
        self.meter.count(GRADIENTS, [p.grad for p in parameters])
        try:
            self.optimizer.step()
            self.meter.count(OPTIMIZER, tensors(self.optimizer.state))
            with self._moment("update"):
                self.optimizer.step()
        except Exception:  # noqa: BLE001 - it works on numbers, as those do that compress their state
            self.works_without_numbers = False
            self.meter.hold(OPTIMIZER, int(sum(p.numel() for p in parameters) * self._state_of_a_parameter()))
        if not self.kept:
            self.optimizer.zero_grad(set_to_none=True)

    def _state_of_a_parameter(self) -> float:
        """Bytes that the optimizer keeps for a number, by what it keeps for a matrix with numbers."""
        matrix = nn.Parameter(torch.zeros(SIDE, SIDE))
        optimizer = self.plan.one("optim").build()([ParamGroup([matrix])])
        matrix.grad = torch.zeros_like(matrix)
        optimizer.step()
        return sum(t.untyped_storage().nbytes() for t in tensors(optimizer.state)) / matrix.numel()

    def _go_through(self) -> None:
        parts = self.parts
        parts.training_mode(parts.scored)
        session = Imagined(self.plan, parts, self.world, self._scored_at_rest)
        with self._moment("rollout"):
            window = next(iter(parts.method.source(Heaviest(parts.loader), session).windows())).batches
        if session.generates:
            self._merge_for_engine()
        window = window if parts.method.scope == "window" else window[:ACCUMULATED]
        window, held_out = self._with_precomputed(window), self._with_precomputed(self._held_out(session))
        self._let_precomputed_go()
        alike = cast(Strategy, Alike(self.world))
        updater = Updater(parts.method, cast(Any, self._scored), alike, self.optimizer, self.world)
        with self._moment("training step"):
            self.meter.count(WORKING, tensors([[batch.inputs, batch.fields] for batch in window]))
            updater.backward(window, updater.totals(window))
            if self.works_without_numbers:
                self.optimizer.step()
        if not self.kept:
            self.optimizer.zero_grad(set_to_none=True)
        with self._moment("evaluation"):
            for batch in held_out:
                self._scored_at_rest(batch, parts.method.passes(batch))

    def _merge_for_engine(self) -> None:
        """An engine with weights of its own is given those of the policy, merged into a copy in single precision on the CPU."""
        if "shared-module" in self.plan.one("engine").component.spec.supports or self.world.device != "cpu":
            return
        copy = 4 * sum(p.numel() for p in self.parts.policy.module.parameters())
        self.meter.hold(WEIGHTS, copy)
        with self._moment("weights for the engine"):
            pass
        self.meter.hold(WEIGHTS, -copy)

    def _held_out(self, session: Imagined) -> list[Batch]:
        """The batch of an evaluation with the longest examples; none where nothing is evaluated by the loss."""
        if not len(self.parts.data.eval) or self.parts.method.evaluate([], session) is not None:
            return []
        return [self._longest(self.parts.data.eval)]

    def _longest(self, examples: ExampleSet) -> Batch:
        """The first batch of an evaluation of these examples."""
        parts, size = self.parts, self.plan.config.eval.batch_size
        with closing(eval_batches(examples, parts.collate, parts.layout, size, self.world)) as batches:
            return next(batches)[0]

    def _with_precomputed(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches with values in the place of what precomputed roles say of them."""
        found = []
        for batch in batches:
            asked = [p for p in self.parts.method.passes(batch) if p.role in self.precomputed]
            given = zeros(self._scored_at_rest(batch, asked)) if asked else {}
            found.append(replace(batch, fields={**batch.fields, PREFIX: given}) if given else batch)
        return found

    def _let_precomputed_go(self) -> None:
        """Precomputed roles are asked about all examples before there is an optimizer, and leave."""
        if not self.precomputed:
            return
        batch = self._longest(self.parts.data.train)
        with self._moment("precomputing", WEIGHTS, WORKING):
            self._scored_at_rest(batch, [p for p in self.parts.method.passes(batch) if p.role in self.precomputed])
        for role in self.precomputed:
            self.parts.scored.leave(role)
            self.parts.models.pop(role, None)

    def _scored(
        self, inputs: Mapping[str, Any], fields: Mapping[str, Any], passes: Sequence[Pass]
    ) -> Mapping[str, Rows]:
        with computing(self.plan, self.world.device):
            return self.parts.scored(inputs, fields, passes)

    def _scored_at_rest(self, batch: Batch, passes: Sequence[Pass]) -> Mapping[str, Rows]:
        """Statistics without gradient and without dropout."""
        self.parts.scored.eval()
        try:
            with torch.no_grad():
                moved = to_device(batch, self.world.device)
                return self._scored(moved.inputs, moved.fields, passes)
        finally:
            self.parts.training_mode(self.parts.scored)
