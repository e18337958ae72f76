"""Policy gradients on groups of answers: which forwards are asked for, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tk.contracts import (
    Batch,
    Example,
    Figures,
    Layout,
    Limit,
    Loss,
    Pass,
    Reduce,
    Role,
    Rows,
    Session,
    Settings,
    Source,
    Stat,
    Step,
    Template,
    Term,
)
from tk.errors import UsageError
from tk.sample import Sample
from tk_grpo.contracts import Advantage, Aggregation, Clip, Ratio
from tk_grpo.options import GrpoOptions
from tk_grpo.rollouts import roll_out
from tk_rollouts.answers import Group, answers_of, token_field
from tk_rollouts.generate import evaluated
from tk_rollouts.prompts import collate_prompts, encode_prompts
from tk_rollouts.source import Rollouts, check_sampling
from tk_tensor.branches import collate_trees


class Grpo:
    """Online reinforcement learning with four replaceable parts."""

    scope: Literal["row", "window"] = "row"

    def __init__(
        self,
        options: GrpoOptions,
        losses: Mapping[str, tuple[float, Loss]],
        advantage: Advantage,
        ratio: Ratio,
        clip: Clip,
        aggregation: Aggregation,
    ) -> None:
        if losses:
            raise UsageError(f"losses: {', '.join(losses)}: this method's objective is made of its own parts.")
        self.options = options
        self.advantage, self.ratio, self.clip, self.aggregation = advantage, ratio, clip, aggregation
        self.temperature = 1.0
        self.limit = 1

    @property
    def in_loss(self) -> bool:
        """Whether the divergence from the reference is a term of the loss."""
        return bool(self.options.kl) and self.options.kl_in == "loss"

    def roles(self) -> Sequence[Role]:
        policy = Role("policy")
        if not self.options.kl:
            return (policy,)
        if self.options.reference:
            return (policy, Role("reference", trainable=False, checkpoint=self.options.reference))
        return (policy, Role("reference", trainable=False, of="policy", adapter_off=True))

    def check(self, settings: Settings) -> None:
        check_sampling(settings, least=2)

    def source(self, data: Source, session: Session) -> Source:
        self.temperature, self.limit = session.sampling.temperature, session.sampling.max_tokens
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

    def evaluate(self, examples: Sequence[Example], session: Session) -> list[Figures] | None:
        return evaluated([e.values["prompt"] for e in examples], session)

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        return encode_prompts(samples, template, limit)

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        return collate_prompts(rows)

    def batch(self, groups: Sequence[Group], layout: Layout) -> Batch:
        """What is trained on: a sample is an answer with its prompt."""
        inputs, fields, samples, tokens = collate_trees([[group.tree] for group in groups], layout)
        answers = answers_of(groups)
        lengths = torch.zeros(samples).index_add(0, fields["rows"], fields["token_weights"])
        factors, normalisers = self.aggregation(lengths, self.limit)
        normalisers = normalisers * torch.tensor([float(answer.trained) for answer in answers])
        fields |= {
            "advantages": torch.tensor([answer.advantage for answer in answers]),
            "factors": factors,
            "answer_lengths": lengths,
            "rewards": torch.tensor([answer.reward for answer in answers]),
            "tokens": torch.tensor([float(len(answer.ids)) for answer in answers]),
            "truncated": torch.tensor([float(answer.truncated) for answer in answers]),
            "idle": torch.tensor([answer.figures.get("idle", 0.0) for answer in answers]),
        }
        given = {f"{name}_logps": token_field(groups, name) for name in ("old", "reference")}
        fields |= {name: values for name, values in given.items() if values is not None}
        weights = dict.fromkeys(("policy", "kl") if self.in_loss else ("policy",), float(normalisers.sum()))
        return Batch(inputs, fields, weights, samples, tokens, origins=[group.origin for group in groups])

    def asked(self, role: str, *, grad: bool) -> Pass:
        """Log-probs of the distribution that answers are sampled from."""
        return Pass((Stat("logps", self.temperature, role),), role, grad)

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
        terms = {"policy": Term(-(each * gained).sum())}
        metrics = {"clipped": (clipped * weights).detach()}
        if self.in_loss:
            reference = fields["reference_logps"] if "reference_logps" in fields else outputs["reference"]["logps"]
            apart = reference - logps
            kl = apart.exp() - apart - 1  # k3, http://joschu.net/blog/kl-approx.html
            counted = kl * ratio if self.options.kl_unbiased else kl
            terms["kl"] = Term((each * counted).sum(), self.options.kl)
            metrics["kl_token"] = (kl * weights).detach()
        count = float(weights.sum())
        return Step(terms, {**{n: (v.sum(), count) for n, v in metrics.items()}, **_of_answers(fields)})


def _of_answers(fields: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
    """Means over the answers of a batch."""
    count = float(len(fields["rewards"]))
    names = {"reward": "rewards", "answer_tokens": "tokens", "truncated": "truncated", "idle": "idle"}
    return {name: (fields[key].sum(), count) for name, key in names.items()}
