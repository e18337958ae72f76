"""What a rollout is for groups of answers: other prompts for those that teach nothing, and all held against one another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from tk.contracts import Batch, Completion, Layout, Pass, Session
from tk.errors import TkError, TkWarning
from tk_grpo.contracts import Advantage
from tk_grpo.options import GrpoOptions
from tk_rollouts.answers import Group, answers_of
from tk_rollouts.generate import Asked, answered, warn_if_cut
from tk_rollouts.score import score_tokens
from tk_rollouts.stream import Drawn


class Rolling(Protocol):
    """What a rollout asks of its method."""

    options: GrpoOptions
    advantage: Advantage

    def asked(self, role: str, *, grad: bool, id: str = "") -> Pass: ...

    def batch(self, groups: Sequence[Group], layout: Layout) -> Batch: ...


def roll_out(
    method: Rolling, session: Session, asked: Sequence[Asked], again: bool, draw: Callable[[int], Drawn]
) -> list[Group]:
    """Answers with their advantages.

    again: they are trained on in several steps, and need their old log-probs. draw: further prompts of the data.
    """

    def trains(completion: Completion) -> bool:
        return not (completion.finish_reason == "length" and method.options.mask_truncated)

    def answer(some: Sequence[Asked]) -> list[Group]:
        return answered(session, some, trains=trains)

    groups = answer(asked)
    for _ in range(method.options.resample):
        if not fill(session, groups, answer, draw):
            break
    for group in groups:
        wanted = teaches(group) or not method.options.resample
        punish(group, method.options.overlong * session.sampling.max_tokens, session.sampling.max_tokens)
        for one in group.answers:
            one.figures["idle"] = float(not (wanted and teaches(group)))
            one.trained, one.counted = one.trained and wanted, one.counted and wanted
    warn_if_idle(session, groups)
    warn_if_cut(session, groups)
    in_reward = bool(method.options.kl) and method.options.kl_in == "reward"  # alike on every rank
    if in_reward:
        score(method, session, groups)
        for one in answers_of(groups):
            if one.reward is None:
                continue
            old, reference = one.tokens.get("old", ()), one.tokens.get("reference", ())
            one.reward -= method.options.kl * math.fsum(a - b for a, b in zip(old, reference, strict=True))
    compare(method, session, groups)
    if again and not in_reward:
        score(method, session, groups)
    return groups


def fill(
    session: Session,
    groups: list[Group],
    answer: Callable[[Sequence[Asked]], list[Group]],
    draw: Callable[[int], Drawn],
) -> bool:
    """Put answers to as many further prompts in the place of groups that teach nothing, on all ranks.

    What is answered, and which of it is trained on, does not depend on the number of ranks. False: every group teaches.
    """
    idle = [i for i, group in enumerate(groups) if not teaches(group)]
    counts = session.gather(len(idle))
    if not any(counts):
        return False
    drawn = draw(sum(counts))
    fresh = zip(drawn, answer([asked for _, asked in drawn]), strict=True)
    told = session.gather([[place, group.plain()] for (place, _), group in fresh if teaches(group)])
    found = sorted((one for rank in told for one in rank), key=lambda one: one[0])
    first = sum(counts[: session.world.rank])
    for i, (_, plain) in zip(idle, found[first:], strict=False):
        groups[i] = Group.of(plain)
    return True


def warn_if_idle(session: Session, groups: Sequence[Group]) -> None:
    """Warn, once, where a whole step teaches nothing."""
    own = [one.figures["idle"] > 0 for one in answers_of(groups)]
    told = [idle for rank in session.gather(own) for idle in rank]
    if told and all(told) and session.world.rank == 0:
        warnings.warn(
            "rewards: all answers to each prompt of a step have the same reward, so that nothing is learned from it: use a "
            "reward that tells them apart, or other prompts. `idle` in the log is the share of such answers.",
            TkWarning,
            stacklevel=1,
        )


def teaches(group: Group) -> bool:
    """Whether its answers have different rewards."""
    return len({answer.reward for answer in group.answers if answer.reward is not None}) > 1


def punish(group: Group, margin: float, limit: int) -> None:
    """Take from 0 to 1 off the rewards of answers that are less than `margin` tokens shorter than `limit`."""
    if not margin:
        return
    for one in group.answers:
        penalty = -min(1.0, max(0.0, len(one.ids) - (limit - margin)) / margin)
        one.figures["overlong"] = penalty
        if one.reward is not None:
            one.reward += penalty


def compare(method: Rolling, session: Session, groups: Sequence[Group]) -> None:
    """The advantage of each answer, from the rewards and lengths of the whole rollout on all ranks."""
    told = session.gather([[(answer.reward, len(answer.ids)) for answer in group.answers] for group in groups])
    known = [[(math.nan if value is None else value, n) for value, n in row] for rank in told for row in rank]
    if not known:
        raise TkError("There is no prompt to answer in this step.")
    rewards, lengths = torch.tensor(known, dtype=torch.float64).unbind(-1)
    advantages = method.advantage(rewards, lengths).tolist()
    first = sum(len(rank) for rank in told[: session.world.rank])
    for group, row in zip(groups, advantages[first : first + len(groups)], strict=True):
        for answer, value in zip(group.answers, row, strict=True):
            answer.advantage = float(value)


def score(method: Rolling, session: Session, groups: Sequence[Group]) -> None:
    """Log-probs of each answer's tokens by the policy as it stands, and by the reference where there is one."""
    passes = [method.asked("policy", grad=False, id="old")]
    names = {"old": ("old", "logps")}
    if method.options.kl:
        passes.append(method.asked("reference", grad=False))
        names["reference"] = ("reference", "logps")
    score_tokens(session, method.batch, groups, passes, names)
