"""Policy gradients on groups of answers: which forwards are asked for, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tk.contracts import (
    Batch,
    Layout,
    Loss,
    Pass,
    Reduce,
    Role,
    Rows,
    Session,
    Source,
    Step,
    Term,
)
from tk_grpo.contracts import Advantage, Aggregation, Clip, Ratio
from tk_grpo.options import GrpoOptions
from tk_grpo.rollouts import roll_out
from tk_rollouts.answers import Group, answers_of, figures_of, token_field
from tk_rollouts.correction import counted_of
from tk_rollouts.online import Online, no_losses, reference_role
from tk_rollouts.source import Rollouts
from tk_tensor.branches import collate_trees


class Grpo(Online):
    """Online reinforcement learning with four replaceable parts."""

    least = 2

    def __init__(
        self,
        options: GrpoOptions,
        losses: Mapping[str, tuple[float, Loss]],
        advantage: Advantage,
        ratio: Ratio,
        clip: Clip,
        aggregation: Aggregation,
    ) -> None:
        no_losses(losses)
        self.options = options
        self.advantage, self.ratio, self.clip, self.aggregation = advantage, ratio, clip, aggregation

    @property
    def in_loss(self) -> bool:
        """Whether the divergence from the reference is a term of the loss."""
        return bool(self.options.kl) and self.options.kl_in == "loss"

    def roles(self) -> Sequence[Role]:
        policy = Role("policy")
        return (policy, reference_role(self.options.reference)) if self.options.kl else (policy,)

    def source(self, data: Source, session: Session) -> Source:
        rollouts = Rollouts(
            data,
            session,
            roll_out=lambda asked, again: roll_out(self, session, asked, again, rollouts.draw),
            batch=self.batch,
            steps=self.options.steps_per_rollout,
            iterations=self.options.iterations,
            draws=bool(self.options.resample),
        )
        return rollouts

    def batch(self, groups: Sequence[Group], layout: Layout) -> Batch:
        """What is trained on: a sample is an answer with its prompt."""
        inputs, fields, samples, tokens = collate_trees([[group.tree] for group in groups], layout)
        answers = answers_of(groups)
        lengths = torch.zeros(samples).index_add(0, fields["rows"], fields["token_weights"])
        factors, normalisers = self.aggregation(lengths, self.sampling.max_tokens)
        normalisers = normalisers * torch.tensor([float(answer.counted) for answer in answers])
        fields |= {
            "advantages": torch.tensor([answer.advantage for answer in answers]),
            "factors": factors,
            "answer_lengths": lengths,
            "figures": figures_of(groups),
        }
        given = {f"{name}_logps": token_field(groups, name) for name in ("old", "reference", "engine")}
        fields |= {name: values for name, values in given.items() if values is not None}
        weights = dict.fromkeys(("policy", "kl") if self.in_loss else ("policy",), float(normalisers.sum()))
        return Batch(inputs, fields, weights, samples, tokens, origins=[group.origin for group in groups])

    def passes(self, batch: Batch) -> Sequence[Pass]:
        policy = self.asked("policy", grad=True)
        if self.in_loss and "reference_logps" not in batch.fields:
            return (self.asked("reference", grad=False), policy)
        return (policy,)

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        fields, logps = batch.fields, outputs["policy"]["logps"]
        rows, weights = fields["rows"], fields["token_weights"]
        old = fields["old_logps"] if "old_logps" in fields else logps.detach()
        log_ratio = self.ratio((logps - old) * weights, rows, fields["answer_lengths"], reduce)
        ratio = log_ratio.exp()
        gained, clipped = self.clip(ratio, fields["advantages"].index_select(0, rows))
        each = fields["factors"].index_select(0, rows) * weights
        counts, metrics = counted_of(old, fields, reduce, self.options)
        terms = {"policy": Term(-(each * gained * counts).sum())}
        metrics["clipped"] = (clipped * weights).detach()
        if self.in_loss:
            reference = fields["reference_logps"] if "reference_logps" in fields else outputs["reference"]["logps"]
            apart = reference - logps
            kl = apart.exp() - apart - 1  # k3, http://joschu.net/blog/kl-approx.html
            counted = kl * ratio if self.options.kl_unbiased else kl
            terms["kl"] = Term((each * counted).sum(), self.options.kl)
            metrics["kl_token"] = (kl * weights).detach()
        count = weights.sum()
        return Step(terms, {**fields["figures"], **{n: (v.sum(), count) for n, v in metrics.items()}})
