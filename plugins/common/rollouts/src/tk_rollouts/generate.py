"""Answers to prompts and their rewards; the same however many processes there are."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tk.contracts import Completion, Figures, Request, Session
from tk.errors import TkWarning
from tk_rollouts.answers import Answer, Group, answers_of
from tk_rollouts.prompts import Prompt

Asked = tuple[Prompt, str]
"""A prompt, and a mark that tells apart the times that it is asked."""


def generated(session: Session, asked: Sequence[Asked], **changes: Any) -> list[list[Completion]]:
    """Completions of prompts; the seed of each depends on the run, its row and its mark, and on nothing else."""
    stop_ids = session.template.stop_ids()
    requests = []
    for prompt, mark in asked:
        text = f"{session.seed} {prompt.sample.origin} {mark}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:5], "big")
        sampling = replace(session.sampling, seed=seed, **changes)
        requests.append(Request(prompt.ids, sampling, stop_ids, prompt.media))
    return session.generate(requests)


def answered(
    session: Session, asked: Sequence[Asked], *, trains: Callable[[Completion], bool] = lambda _: True
) -> list[Group]:
    """Answers and rewards of some prompts of this rank. trains: whether an answer that is not empty is trained on."""
    completions = generated(session, asked, logprobs=True)
    flat = [(prompt, each) for (prompt, _), own in zip(asked, completions, strict=True) for each in own]
    scores = session.reward([prompt.sample for prompt, _ in flat], [each for _, each in flat])
    answers = iter(
        _answer(each, {name: values[i] for name, values in scores.items()}, session.rewards, trains)
        for i, (_, each) in enumerate(flat)
    )
    return [
        Group(
            prompt.ids,
            [next(answers) for _ in own],
            prompt.sample.origin,
            prompt.sample.messages[-1].text,
            prompt.media,
        )
        for (prompt, _), own in zip(asked, completions, strict=True)
    ]


def _answer(
    completion: Completion,
    rewards: Mapping[str, float | None],
    weights: Mapping[str, float],
    trains: Callable[[Completion], bool],
) -> Answer:
    return Answer(
        list(completion.ids),
        trained=bool(completion.ids) and trains(completion),
        counted=bool(completion.ids),
        truncated=completion.finish_reason == "length",
        text=completion.text,
        rewards=rewards,
        reward=total(rewards, weights),
        tokens={"engine": list(completion.logps)} if completion.logps is not None else {},
    )


def evaluated(prompts: Sequence[Prompt], session: Session) -> list[Figures]:
    """Rewards of one greedy answer to each prompt, and its length; `reward` is their sum, `rewards/<name>` each of several."""
    completions = [own[0] for own in generated(session, [(p, "held out") for p in prompts], n=1, temperature=0.0)]
    scores = session.reward([prompt.sample for prompt in prompts], completions)
    found: list[Figures] = []
    for i, completion in enumerate(completions):
        rewards = {name: values[i] for name, values in scores.items()}
        whole = total(rewards, session.rewards)
        figures = {"reward": (0.0, 0.0) if whole is None else (whole, 1.0)}
        if len(rewards) > 1:
            figures |= {f"rewards/{name}": (value, 1.0) for name, value in rewards.items() if value is not None}
        found.append({**figures, "answer_tokens": (float(len(completion.ids)), 1.0)})
    return found


def warn_if_cut(session: Session, groups: Sequence[Group]) -> None:
    """Warn, once, where no answer of a rollout came to its end."""
    told = [cut for rank in session.gather([a.truncated for a in answers_of(groups)]) for cut in rank]
    if told and all(told) and session.world.rank == 0:
        warnings.warn(
            f"sampling: every answer of a step was cut off at sampling.max_tokens {session.sampling.max_tokens}: raise it, "
            "unless such answers are wanted. `truncated` in the log is the share of such answers.",
            TkWarning,
            stacklevel=1,
        )


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of the rewards that apply; None where none does."""
    there = [weights[name] * value for name, value in rewards.items() if value is not None]
    return math.fsum(there) if there else None
