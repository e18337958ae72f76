"""The outer loop: prompts → answers → rewards → advantages → windows of batches, on every rank alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tk.contracts import Batch, Completion, Figures, Request, Session, Source, Window
from tk.errors import TkError, UsageError
from tk_data.loader import filler
from tk_grpo.groups import Answer, Group, Micro, Prompt

if TYPE_CHECKING:
    from tk_grpo.method import Grpo

Planned = list[list[Micro]]
"""Micro-batches of each optimizer step that one rollout is for."""


class Rollouts:
    """Implements tk.contracts.Source over a source of prompts.

    A rollout is for `steps_per_rollout` windows of prompts, which are trained on `iterations` times. The cursor holds the
    answers that are not used up, of every rank, so that a resumed run goes on with them and uses none twice.
    """

    def __init__(self, data: Source, session: Session, method: Grpo) -> None:
        self.data, self.session, self.method = data, session, method
        self.options = method.options

    def __len__(self) -> int:
        return self.session.steps or len(self.data) * self.options.iterations

    def updated(self, step: int, session: Session) -> None:
        self.data.updated(step, session)

    def windows(self, cursor: Mapping[str, Any] | None = None) -> Iterator[Window]:
        self._check()
        data = self.data.windows(cursor["data"] if cursor else None)
        try:
            if cursor and cursor["pending"]:
                yield from self._train(*_restored(cursor, self.session), cursor["data"])
            while taken := self._taken(data):
                planned = self._rolled_out(taken)
                last = taken[-1]
                shown = [_shown(group) for step in planned for micro in step for group in micro]
                yield from self._train(planned, 0, last.epoch, last.cursor, shown)
        finally:
            close = getattr(data, "close", None)
            if close:
                close()

    def _check(self) -> None:
        sampling = self.session.sampling
        if sampling.n < 2:
            raise UsageError("sampling.n: answers are held against one another: ask for 2 or more.")
        if sampling.temperature == 0:
            raise UsageError("sampling.temperature: at 0 all answers to a prompt are the same: use 1.")
        if not self.session.rewards:
            raise UsageError("rewards: none is chosen: --rewards NAME (see `tk rewards list`).")
        self.method.temperature, self.method.limit = sampling.temperature, sampling.max_tokens

    # --- what is trained on ---

    def _train(
        self,
        planned: Planned,
        done: int,
        epoch: float,
        cursor: Any,
        shown: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[Window]:
        """Windows of a rollout from the one after `done` on."""
        total = len(planned) * self.options.iterations
        for number in range(done, total):
            batches = self._batches(planned[number % len(planned)])
            left: dict[str, Any] = {"data": cursor, "pending": None}
            if number + 1 < total:
                own = [[[group.plain() for group in micro] for micro in step] for step in planned]
                left["pending"] = {"done": number + 1, "epoch": epoch, "ranks": self.session.gather(own)}
            yield Window(batches, left, epoch, shown if number == 0 else ())

    def _batches(self, step: Sequence[Micro]) -> list[Batch]:
        return [self._batch(micro) for micro in step]

    def _batch(self, micro: Micro) -> Batch:
        if micro:
            return self.method.batch(micro, self.session.layout)
        stop = self.session.template.stop_ids()[:1] or (0,)
        idle = Group([stop[0], stop[0]], [Answer([stop[0]], trained=False)] * 2)
        return filler(self.method.batch([idle], self.session.layout))

    # --- generation ---

    def _taken(self, data: Iterator[Window]) -> list[Window]:
        found: list[Window] = []
        for window in data:
            found.append(window)
            if len(found) == self.options.steps_per_rollout:
                break
        return found

    def _rolled_out(self, taken: Sequence[Window]) -> Planned:
        """Answers with their advantages to the prompts of some windows."""
        prompts = [[_prompts(batch) for batch in window.batches] for window in taken]
        marks = [str(window.cursor) for window in taken]
        flat = [(p, mark) for own, mark in zip(prompts, marks, strict=True) for micro in own for p in micro]
        groups = self._groups(flat)
        if self.options.resample:
            groups = self._replaced(groups, flat)
        self._compare(groups)
        made = iter(groups)
        planned = [[[next(made) for _ in micro] for micro in own] for own in prompts]
        scored = self.method.options.kl and self.method.options.kl_in == "reward"  # alike on every rank
        if len(taken) * self.options.iterations > 1 and not scored:
            self._score(groups)
        return planned

    def _replaced(self, groups: list[Group], flat: Sequence[tuple[Prompt, str]]) -> list[Group]:
        """Groups that teach nothing answered again, with other seeds; what still teaches nothing is not trained on."""
        for attempt in range(1, self.options.resample + 1):
            idle = [i for i, group in enumerate(groups) if not group.teaches]
            if not any(self.session.gather(len(idle))):
                break
            again = self._groups([(flat[i][0], f"{flat[i][1]} again {attempt}") for i in idle])
            for i, group in zip(idle, again, strict=True):
                groups[i] = group
        for answer in (answer for group in groups if not group.teaches for answer in group.answers):
            answer.trained = False
        return groups

    def _groups(self, asked: Sequence[tuple[Prompt, str]]) -> list[Group]:
        """Answers and rewards of some prompts of this rank. mark: tells apart the times that a prompt is asked."""
        completions = generated(self.session, asked)
        flat = [(prompt, each) for (prompt, _), own in zip(asked, completions, strict=True) for each in own]
        scores = self.session.reward([prompt.sample for prompt, _ in flat], [each for _, each in flat])
        answers = iter(
            self._answer(each, {name: values[i] for name, values in scores.items()}) for i, (_, each) in enumerate(flat)
        )
        return [
            Group(prompt.ids, [next(answers) for _ in own], prompt.sample.origin, prompt.sample.messages[-1].text)
            for (prompt, _), own in zip(asked, completions, strict=True)
        ]

    def _answer(self, completion: Completion, rewards: Mapping[str, float | None]) -> Answer:
        truncated = completion.finish_reason == "length"
        return Answer(
            list(completion.ids),
            trained=bool(completion.ids) and not (truncated and self.options.mask_truncated),
            truncated=truncated,
            text=completion.text,
            rewards=rewards,
            reward=total(rewards, self.session.rewards),
        )

    # --- comparison ---

    def _compare(self, groups: list[Group]) -> None:
        """The advantage of each answer, from the rewards of the whole rollout on all ranks."""
        if self.method.options.kl and self.method.options.kl_in == "reward":
            self._score(groups)
            for answer in (answer for group in groups for answer in group.answers):
                apart = math.fsum(a - b for a, b in zip(answer.old, answer.reference, strict=True))
                answer.reward -= self.method.options.kl * apart
        own = [[_number(answer.reward) for answer in group.answers] for group in groups]
        told = self.session.gather(own)
        rewards = torch.tensor(
            [[math.nan if value is None else value for value in row] for rank in told for row in rank],
            dtype=torch.float64,
        )
        if not rewards.numel():
            raise TkError("There is no prompt to answer in this step.")
        advantages = self.method.advantage(rewards).tolist()
        first = sum(len(rank) for rank in told[: self.session.world.rank])
        for group, row in zip(groups, advantages[first : first + len(groups)], strict=True):
            for answer, value in zip(group.answers, row, strict=True):
                answer.advantage = float(value)
                if math.isnan(answer.reward):
                    answer.trained, answer.reward = False, 0.0

    def _score(self, groups: list[Group]) -> None:
        """Log-probs of each answer's tokens by the policy as it stands, and by the reference where there is one."""
        passes = [replace(self.method.asked("policy", grad=False), id="old")]
        if self.method.options.kl:
            passes.append(self.method.asked("reference", grad=False))
        most = max(self.session.gather(len(groups)))
        for number in range(most):  # every rank asks equally often
            own = groups[number : number + 1]
            batch = self._batch(own)
            (outputs,) = self.session.score([batch], passes)
            for group in own:
                _give(group, "old", outputs["old"]["logps"])
                if "reference" in outputs:
                    _give(group, "reference", outputs["reference"]["logps"])


def generated(session: Session, asked: Sequence[tuple[Prompt, str]], **changes: Any) -> list[list[Completion]]:
    """Completions of prompts; the seed of each depends on the run, its row and its mark, and on nothing else."""
    stop_ids = session.template.stop_ids()
    requests = []
    for prompt, mark in asked:
        text = f"{session.seed} {prompt.sample.origin} {mark}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:5], "big")
        sampling = replace(session.sampling, seed=seed, **changes)
        requests.append(Request(prompt.ids, sampling, stop_ids))
    return session.generate(requests)


def evaluated(prompts: Sequence[Prompt], session: Session) -> list[Figures]:
    """Rewards of one greedy answer to each prompt, and its length."""
    completions = [own[0] for own in generated(session, [(p, "held out") for p in prompts], n=1, temperature=0.0)]
    scores = session.reward([prompt.sample for prompt in prompts], completions)
    found: list[Figures] = []
    for i, completion in enumerate(completions):
        rewards = {name: values[i] for name, values in scores.items()}
        whole = total(rewards, session.rewards)
        figures = {"reward": (0.0, 0.0) if math.isnan(whole) else (whole, 1.0)}
        if len(rewards) > 1:
            figures |= {name: (value, 1.0) for name, value in rewards.items() if value is not None}
        found.append({**figures, "answer_tokens": (float(len(completion.ids)), 1.0)})
    return found


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float:
    """The weighted sum of the rewards that apply; nan where none does."""
    there = [weights[name] * value for name, value in rewards.items() if value is not None]
    return math.fsum(there) if there else math.nan


def _prompts(batch: Batch) -> list[Prompt]:
    return [] if batch.filler else list(batch.fields["prompts"])


def _give(group: Group, name: str, logps: torch.Tensor) -> None:
    """Divide the log-probs of a batch of one group among its answers."""
    values = iter(logps.tolist())
    for answer in group.answers:
        if answer.trained:
            setattr(answer, name, [next(values) for _ in answer.ids])


def _restored(cursor: Mapping[str, Any], session: Session) -> tuple[Planned, int, float]:
    pending = cursor["pending"]
    if len(pending["ranks"]) != session.world.size:
        raise TkError(
            f"The run was stopped within a rollout of {len(pending['ranks'])} processes and cannot go on with "
            f"{session.world.size}: use as many."
        )
    own = pending["ranks"][session.world.rank]
    planned = [[[Group.of(group) for group in micro] for micro in step] for step in own]
    return planned, pending["done"], pending["epoch"]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(group: Group) -> dict[str, Any]:
    return {
        "origin": group.origin,
        "prompt": group.question,
        "answers": [
            {"answer": a.text, "total": _number(a.reward), "rewards": dict(a.rewards), "advantage": a.advantage}
            for a in group.answers
        ],
    }
