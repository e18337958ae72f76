"""What a rollout is for groups of answers: those that teach nothing answered again, and all held against one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tk.contracts import Completion, Session
from tk.errors import TkError
from tk_rollouts.answers import Group, answers_of
from tk_rollouts.generate import Asked, answered, number
from tk_rollouts.score import score_tokens

if TYPE_CHECKING:
    from tk_grpo.method import Grpo


def roll_out(method: Grpo, session: Session, asked: Sequence[Asked], again: bool) -> list[Group]:
    """Answers with their advantages. again: they are trained on in several steps, and need their old log-probs."""

    def trains(completion: Completion) -> bool:
        return not (completion.finish_reason == "length" and method.options.mask_truncated)

    def answer(some: Sequence[Asked]) -> list[Group]:
        return answered(session, some, trains=trains)

    groups = answer(asked)
    for attempt in range(1, method.options.resample + 1):
        idle = [i for i, group in enumerate(groups) if not teaches(group)]
        if not any(session.gather(len(idle))):
            break
        replaced = answer([(asked[i][0], f"{asked[i][1]} again {attempt}") for i in idle])
        for i, group in zip(idle, replaced, strict=True):
            groups[i] = group
    if method.options.resample:
        for one in answers_of([group for group in groups if not teaches(group)]):
            one.trained = False
    in_reward = bool(method.options.kl) and method.options.kl_in == "reward"  # alike on every rank
    if in_reward:
        score(method, session, groups)
        for one in answers_of(groups):
            old, reference = one.tokens.get("old", ()), one.tokens.get("reference", ())
            one.reward -= method.options.kl * math.fsum(a - b for a, b in zip(old, reference, strict=True))
    compare(method, session, groups)
    if again and not in_reward:
        score(method, session, groups)
    return groups


def teaches(group: Group) -> bool:
    """Whether its answers have different rewards."""
    return len({answer.reward for answer in group.answers}) > 1


def compare(method: Grpo, session: Session, groups: Sequence[Group]) -> None:
    """The advantage of each answer, from the rewards of the whole rollout on all ranks."""
    own = [[number(answer.reward) for answer in group.answers] for group in groups]
    told = session.gather(own)
    rewards = torch.tensor(
        [[math.nan if value is None else value for value in row] for rank in told for row in rank],
        dtype=torch.float64,
    )
    if not rewards.numel():
        raise TkError("There is no prompt to answer in this step.")
    advantages = method.advantage(rewards).tolist()
    first = sum(len(rank) for rank in told[: session.world.rank])
    for group, row in zip(groups, advantages[first : first + len(groups)], strict=True):
        for answer, value in zip(group.answers, row, strict=True):
            answer.advantage = float(value)
            if math.isnan(answer.reward):
                answer.trained, answer.reward = False, 0.0


def score(method: Grpo, session: Session, groups: Sequence[Group]) -> None:
    """Log-probs of each answer's tokens by the policy as it stands, and by the reference where there is one."""
    passes = [replace(method.asked("policy", grad=False), id="old")]
    names = {"old": ("old", "logps")}
    if method.options.kl:
        passes.append(method.asked("reference", grad=False))
        names["reference"] = ("reference", "logps")
    score_tokens(session, method.batch, groups, passes, names)
