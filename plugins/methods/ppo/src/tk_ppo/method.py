"""A policy gradient on tokens, and the regression of the critic beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tk.contracts import (
    Batch,
    Head,
    Layout,
    Loss,
    Pass,
    Reduce,
    Role,
    Rows,
    Session,
    Source,
    Stat,
    Step,
    Term,
)
from tk.errors import UsageError
from tk_grpo.contracts import Clip
from tk_ppo.options import PpoOptions
from tk_ppo.rollouts import roll_out
from tk_rollouts.answers import Group, figures_of, token_field
from tk_rollouts.correction import counted_of
from tk_rollouts.online import Online, no_losses, reference_role
from tk_rollouts.source import Rollouts
from tk_tensor.branches import collate_trees

GIVEN = ("old", "values", "advantages", "returns")
"""What the rollout has found out of each token."""


class Ppo(Online):
    """Two trained roles: `policy`, and `critic` with a value for each token."""

    def __init__(self, options: PpoOptions, losses: Mapping[str, tuple[float, Loss]], clip: Clip) -> None:
        no_losses(losses)
        if options.critic_checkpoint and options.critic == "shared":
            raise UsageError("method.critic_checkpoint: a shared critic has no model: choose --method.critic own.")
        self.options, self.clip = options, clip

    def roles(self) -> Sequence[Role]:
        options = self.options
        if options.critic == "shared":
            critic = Role("critic", of="policy", head=Head("value"), lr_scale=options.critic_lr_scale)
        else:
            checkpoint = options.critic_checkpoint or ""
            critic = Role("critic", head=Head("value"), lr_scale=options.critic_lr_scale, checkpoint=checkpoint)
        roles = (Role("policy"), critic)
        return (*roles, reference_role(options.reference)) if options.kl else roles

    def source(self, data: Source, session: Session) -> Source:
        return Rollouts(
            data,
            session,
            roll_out=lambda asked, again: roll_out(self, session, asked),
            batch=self.batch,
            steps=self.options.steps_per_rollout,
            iterations=self.options.iterations,
        )

    def batch(self, groups: Sequence[Group], layout: Layout) -> Batch:
        """What is trained on: a sample is an answer with its prompt."""
        inputs, fields, samples, tokens = collate_trees([[group.tree] for group in groups], layout)
        given = {name: token_field(groups, name) for name in GIVEN} | {"engine_logps": token_field(groups, "engine")}
        fields |= {name: values for name, values in given.items() if values is not None}
        count = float(fields["token_weights"].sum())
        fields["figures"] = figures_of(groups)
        weights = {"policy": count, "value": count}
        return Batch(inputs, fields, weights, samples, tokens, origins=[group.origin for group in groups])

    def valued(self, *, grad: bool) -> Pass:
        """What the critic expects before each token."""
        return Pass((Stat("value", role="critic"),), "critic", grad)

    def passes(self, batch: Batch) -> Sequence[Pass]:
        return (self.asked("policy", grad=True), self.valued(grad=True))

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        logps, values = outputs["policy"]["logps"], outputs["critic"]["value"]
        weights = batch.fields["token_weights"]
        given = {name: batch.fields.get(name, torch.zeros_like(logps)) for name in GIVEN}  # of nothing trained
        log_ratio = (logps - given["old"]) * weights
        gained, clipped = self.clip(log_ratio.exp(), given["advantages"])
        counts, apart = counted_of(given["old"], batch.fields, reduce, self.options)
        error, held = value_error(values, given["values"], given["returns"], self.options.value_clip)
        terms = {
            "policy": Term(-(gained * weights * counts).sum()),
            "value": Term(0.5 * (error * weights).sum(), self.options.value_coef),
        }
        moved = log_ratio.exp() - 1 - log_ratio
        of_tokens = {"clipped": clipped, "value_clipped": held, "moved": moved}
        count = weights.sum()
        metrics = {name: ((each * weights).sum().detach(), count) for name, each in of_tokens.items()}
        metrics |= {name: (each.sum(), count) for name, each in apart.items()}
        return Step(terms, {**batch.fields["figures"], **metrics})


def value_error(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """[N] squared errors, and where (0 or 1) it is that of a value held within `clip` of the one at the rollout.

    The larger of both counts (arXiv 2005.12729, appendix), so that no value is pulled further than `clip` in a rollout.
    """
    free = (values - returns).square()
    if clip is None:
        return free, torch.zeros_like(free)
    held = (old + (values - old).clamp(-clip, clip) - returns).square()
    return torch.maximum(free, held), (held > free).to(free.dtype)
