"""What a rollout is for a policy with a critic: answers, and what each of their tokens was worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from tk.contracts import Batch, Layout, Pass, Session, Stat
from tk_ppo.estimates import divergences, generalised_advantages, moments
from tk_ppo.options import PpoOptions
from tk_rollouts.answers import Answer, Group, answers_of
from tk_rollouts.generate import Asked, answered, warn_if_cut
from tk_rollouts.score import score_tokens


class Rolling(Protocol):
    """What a rollout asks of its method."""

    options: PpoOptions

    def asked(self, role: str, *, grad: bool, id: str = "") -> Pass: ...

    def sampled(self, stat: str, role: str = "policy") -> Stat: ...

    def valued(self, *, grad: bool) -> Pass: ...

    def batch(self, groups: Sequence[Group], layout: Layout) -> Batch: ...


def roll_out(method: Rolling, session: Session, asked: Sequence[Asked]) -> list[Group]:
    """Answers whose tokens have `old` log-probs, `values`, `advantages` and `returns`."""
    groups = answered(session, asked)
    warn_if_cut(session, groups)
    for answer in answers_of(groups):
        answer.trained = answer.trained and answer.reward is not None
        if answer.truncated and answer.reward is not None:
            answer.reward -= method.options.missing_eos_penalty
    score(method, session, groups)
    estimate(method, session, [answer for answer in answers_of(groups) if answer.trained])
    return groups


def score(method: Rolling, session: Session, groups: Sequence[Group]) -> None:
    """What policy, critic and reference give the tokens before the first update."""
    asked = method.asked("policy", grad=False, id="old")
    passes = [Pass((*asked.wants, method.sampled("entropy")), "policy", False, "old"), method.valued(grad=False)]
    names = {"old": ("old", "logps"), "entropy": ("old", "entropy"), "values": ("critic", "value")}
    if method.options.kl:
        passes.append(method.asked("reference", grad=False))
        names["reference"] = ("reference", "logps")
    score_tokens(session, method.batch, groups, passes, names)


def estimate(method: Rolling, session: Session, answers: Sequence[Answer]) -> None:
    """Advantages and returns of this rank's answers, on the scale of all ranks' where they are whitened."""
    options = method.options
    rewards = [token_rewards(method, answer) for answer in answers]
    if options.whiten_rewards:
        scale = moments(session, [r for own in rewards for r in own])
        rewards = [[scale.whitened(r, shift=False) for r in own] for own in rewards]
    for answer, own in zip(answers, rewards, strict=True):
        values = answer.tokens["values"]
        advantages = generalised_advantages(own, values, options.gamma, options.gae_lambda)
        answer.tokens["advantages"] = advantages
        answer.tokens["returns"] = [a + v for a, v in zip(advantages, values, strict=True)]
        answer.advantage = math.fsum(advantages) / len(advantages)
    explained = explained_variance(session, answers)
    spread = moments(session, [a for answer in answers for a in answer.tokens["advantages"]])
    for answer in answers:
        answer.figures["explained_variance"] = explained
        if options.whiten_advantages:
            answer.tokens["advantages"] = [spread.whitened(a) for a in answer.tokens["advantages"]]


def token_rewards(method: Rolling, answer: Answer) -> list[float]:
    """The answer's reward at its last token, and at each token the divergence from the reference taken off.

    What is not needed any more is taken out of the answer's tokens, its mean or sum into the figures.
    """
    entropy = answer.tokens.pop("entropy")
    answer.figures["entropy"] = math.fsum(entropy) / len(entropy)
    rewards = [0.0] * len(answer.ids)
    if method.options.kl:
        kl = divergences(answer.tokens["old"], answer.tokens.pop("reference"), method.options.kl_estimator)
        answer.figures["kl"] = math.fsum(kl)
        rewards = [-method.options.kl * each for each in kl]
    rewards[-1] += answer.reward or 0.0  # one without a reward is not trained on
    return rewards


def explained_variance(session: Session, answers: Sequence[Answer]) -> float:
    """The share of the returns' variance that the critic foresaw: 1 - Var(returns - values) / Var(returns); 0 of none."""
    tokens = [answer.tokens for answer in answers]
    whole = moments(session, [r for own in tokens for r in own["returns"]])
    left = moments(session, [r - v for own in tokens for r, v in zip(own["returns"], own["values"], strict=True)])
    return 1 - left.variance / whole.variance if whole.variance else 0.0
