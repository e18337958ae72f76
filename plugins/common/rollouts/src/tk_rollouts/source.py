"""The outer loop: prompts → answers → what the method makes of them → windows of batches, on every rank alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tk.contracts import Session, Source, Window
from tk.errors import TkError
from tk_rollouts.answers import Group, Planned
from tk_rollouts.generate import Asked
from tk_rollouts.prompts import prompts_of
from tk_rollouts.score import MakeBatch, batch_of
from tk_rollouts.stream import Drawn, Stream

RollOut = Callable[[Sequence[Asked], bool], list[Group]]
"""Answers to prompts of this rank, ready to be trained on. The flag: they are trained on in more than one step."""


class Rollouts:
    """Implements tk.contracts.Source over a source of prompts.

    A rollout is for `steps` windows of prompts, which are trained on `iterations` times. The cursor holds the answers
    that are not used up, of every rank, so that a resumed run goes on with them and uses none twice.
    draws: `roll_out` asks for further prompts (`draw`), so that the data may be passed over more often than planned.
    """

    def __init__(
        self,
        data: Source,
        session: Session,
        *,
        roll_out: RollOut,
        batch: MakeBatch,
        steps: int,
        iterations: int,
        draws: bool = False,
    ) -> None:
        self.data, self.session = data, session
        self.roll_out, self.batch = roll_out, batch
        self.steps, self.iterations, self.draws = steps, iterations, draws
        self.stream: Stream | None = None

    def __len__(self) -> int:
        return self.session.steps or len(self.data) * self.iterations

    def updated(self, step: int, session: Session) -> None:
        self.data.updated(step, session)

    def draw(self, count: int) -> Drawn:
        """This rank's share of further prompts of the data, `count` over all ranks."""
        if self.stream is None:
            raise TkError("Prompts are drawn while a rollout is made.")
        return self.stream.draw(count)

    def windows(self, cursor: Mapping[str, Any] | None = None, *, beyond: bool = False) -> Iterator[Window]:
        self.stream = stream = Stream(self.data, self.session, beyond=self.draws or beyond, state=cursor)
        try:
            if cursor and cursor["pending"]:
                yield from self._train(*restored(cursor, self.session), stream.state())
            while taken := self._taken(stream):
                planned = self._planned(taken)
                made = [shown(group) for step in planned for micro in step for group in micro]
                yield from self._train(planned, 0, stream.epoch, stream.state(), made)
        finally:
            stream.close()

    def _train(
        self,
        planned: Planned,
        done: int,
        epoch: float,
        cursor: Mapping[str, Any],
        made: Sequence[Mapping[str, Any]] = (),
    ) -> Iterator[Window]:
        """Windows of a rollout from the one after `done` on."""
        total = len(planned) * self.iterations
        ranks: Sequence[Any] = ()
        if done + 1 < total:
            own = [[[group.plain() for group in micro] for micro in step] for step in planned]
            ranks = self.session.gather(own)
        for at in range(done, total):
            batches = [batch_of(self.session, self.batch, micro) for micro in planned[at % len(planned)]]
            pending = {"done": at + 1, "epoch": epoch, "ranks": ranks} if at + 1 < total else None
            yield Window(batches, {**cursor, "pending": pending}, epoch, made if at == 0 else ())

    def _taken(self, stream: Stream) -> list[Window]:
        found: list[Window] = []
        while len(found) < self.steps and (window := stream.window()):
            found.append(window)
        return found

    def _planned(self, taken: Sequence[Window]) -> Planned:
        """Answers to the prompts of some windows, laid out as these are."""
        prompts = [[prompts_of(batch) for batch in window.batches] for window in taken]
        marks = [str(window.cursor) for window in taken]
        flat = [(p, mark) for own, mark in zip(prompts, marks, strict=True) for micro in own for p in micro]
        made = iter(self.roll_out(flat, len(taken) * self.iterations > 1))
        return [[[next(made) for _ in micro] for micro in own] for own in prompts]


def restored(cursor: Mapping[str, Any], session: Session) -> tuple[Planned, int, float]:
    """This rank's part of a rollout that is not used up, the windows of it that were, and its epoch."""
    pending = cursor["pending"]
    if len(pending["ranks"]) != session.world.size:
        raise TkError(
            f"The run was stopped within a rollout of {len(pending['ranks'])} processes and cannot go on with "
            f"{session.world.size}: use as many."
        )
    own = pending["ranks"][session.world.rank]
    planned = [[[Group.of(group) for group in micro] for micro in step] for step in own]
    return planned, pending["done"], pending["epoch"]


def shown(group: Group) -> dict[str, Any]:
    """A prompt with its answers, for people."""
    return {
        "origin": group.origin,
        "prompt": group.question,
        "answers": [
            {"answer": a.text, "total": a.reward, "rewards": dict(a.rewards), "advantage": a.advantage}
            for a in group.answers
        ],
    }
