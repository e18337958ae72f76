"""RAFT (arXiv 2304.06767): the model answers, the rewards choose, and what is chosen is trained on as data would be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from acme_tk_raft.options import RaftOptions
from tk.contracts import Batch, Layout, Loss, Pass, Reduce, Role, Rows, Session, Settings, Source, Step
from tk.errors import UsageError
from tk_rollouts.answers import Group, answers_of, figures_of
from tk_rollouts.generate import Asked, answered, warn_if_cut
from tk_rollouts.online import Online
from tk_rollouts.source import Rollouts
from tk_tensor.branches import collate_trees
from tk_tensor.objective import Objective


class Raft(Online):
    """A Method (tk.contracts). Any losses on tokens or sequences can be combined, as in `sft`."""

    least, gradient = 2, False

    def __init__(self, options: RaftOptions, losses: Mapping[str, tuple[float, Loss]]) -> None:
        self.options = options
        self.objective = Objective(dict(losses), ("token", "sequence"))
        self.scope = self.objective.scope

    def roles(self) -> Sequence[Role]:
        return (Role("policy"),)

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if self.options.keep >= settings.sampling.n:
            raise UsageError(f"method.keep: of sampling.n {settings.sampling.n} answers keep fewer.")

    def source(self, data: Source, session: Session) -> Source:
        steps, iterations = self.options.steps_per_rollout, self.options.iterations
        roll_out = lambda asked, again: self.roll_out(session, asked)  # noqa: E731
        return Rollouts(data, session, roll_out=roll_out, batch=self.batch, steps=steps, iterations=iterations)

    def roll_out(self, session: Session, asked: Sequence[Asked]) -> list[Group]:
        groups = answered(session, asked)
        warn_if_cut(session, groups)
        for group in groups:
            choose(group, self.options)
        return groups

    def batch(self, groups: Sequence[Group], layout: Layout) -> Batch:
        """What is trained on: a sample is a chosen answer with its prompt; of a group without any, one that is not trained."""
        chosen = [replace(g, answers=[a for a in g.answers if a.trained] or g.answers[:1]) for g in groups]
        inputs, fields, samples, tokens = collate_trees([[group.tree] for group in chosen], layout)
        fields["figures"] = figures_of(groups)
        answers = float(sum(answer.trained for answer in answers_of(chosen)))
        weights = self.objective.weights({"token": float(fields["token_weights"].sum()), "sequence": answers})
        return Batch(inputs, fields, weights, samples, tokens, origins=[group.origin for group in groups])

    def passes(self, batch: Batch) -> Sequence[Pass]:
        return self.objective.passes()

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        return Step(self.objective.terms(outputs, batch.fields, reduce), batch.fields["figures"])


def choose(group: Group, options: RaftOptions) -> None:
    """Mark the answers with the highest rewards, the first of equal ones, as those that are trained on."""
    floor = -math.inf if options.floor is None else options.floor
    fit = [
        (-a.reward, place)
        for place, a in enumerate(group.answers)
        if a.trained and a.reward is not None and a.reward >= floor
    ]
    best = [place for _, place in sorted(fit)[: options.keep]]
    for place, answer in enumerate(group.answers):
        answer.trained = place in best
        answer.advantage = answer.figures["kept"] = float(answer.trained)
        if answer.trained and answer.reward is not None:
            answer.figures["kept_reward"] = answer.reward
