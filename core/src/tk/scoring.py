"""Rewards of what was generated: built, asked under a time limit, and held to their contract.

Plain rewards are called one after another; what `async` ones return is awaited together.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import traceback
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tk.contracts import Completion, Moment, Reward, Scored
from tk.dispatch import Dispatcher
from tk.errors import StuckError, TkError, UsageError
from tk.limits import TooLong, limited
from tk.sample import Message, Sample

if TYPE_CHECKING:
    from tk.compose import Plan

RAISED = (Exception, SystemExit, asyncio.CancelledError)
"""What a reward may raise."""

Flat = Sequence[tuple[Sample, Completion]]
"""Completions, each with the sample that it answers."""


@dataclass(frozen=True)
class Scorer:
    """A reward, and the seconds that it may take for a batch."""

    reward: Reward
    limit: float = 300.0


@dataclass
class Heard:
    """What rewards tell besides their scores (`Scored.log`, `Scored.note`), since it was last taken.

    figures: name -> values. notes: reward, origin of the row, column and value, one for each completion.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def taken(self) -> dict[str, Any]:
        """JSON-able; it is told once."""
        found = {"figures": dict(self.figures), "notes": list(self.notes)}
        self.figures.clear()
        self.notes.clear()
        return found


def means(figures: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """The mean of each figure over what several ranks have heard."""
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: fmean(value for one in figures for value in one.get(name, ())) for name in names}


def scorers(plan: Plan) -> dict[str, Scorer]:
    """The rewards of a plan. Raises TkError naming one that cannot be built."""
    found = {}
    for name, chosen in plan.many("rewards").items():
        try:
            found[name] = Scorer(chosen.build(), chosen.shared.time_limit)
        except TkError:
            raise
        except Exception as error:  # a user's class may raise anything
            raise TkError(f"rewards.{name}: it cannot be made: {_what(error)}.") from error
    return found


def judges(plan: Plan, folder: Path) -> dict[str, Dispatcher]:
    """The config's further engines, ready to be asked. folder: where they may keep files.

    Raises UsageError for one that could only answer with the run's own model.
    """
    found: dict[str, Dispatcher] = {}
    try:
        for name, chosen in plan.many("engines").items():
            if "own-template" not in chosen.component.spec.supports:
                raise UsageError(
                    f"{chosen.name} answers with the run's own model only: name an endpoint (engine openai)."
                )
            found[name] = Dispatcher(chosen.build(model=None, folder=folder))
    except TkError as error:
        for built in found.values():
            built.close()
        raise type(error)(f"engines.{name}: {error}") from error
    return found


class Scoring:
    """The rewards of a run, asked about one batch of completions after another.

    columns: what rows of the run have; a batch has all of them, with None for rows without. heard: what rewards told.
    engines: what judges may ask, by name; they are closed with the scoring.
    Async rewards share one event loop, so that locks and connections that they keep live on from batch to batch.
    """

    def __init__(
        self,
        rewards: Mapping[str, Scorer],
        columns: Iterable[str] = (),
        engines: Mapping[str, Dispatcher] | None = None,
    ) -> None:
        self.rewards, self.heard = dict(rewards), Heard()
        self._engines = dict(engines or {})
        self._columns = set(columns)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, flat: Flat, moment: Moment | None = None) -> dict[str, list[float | None]]:
        """Each reward's scores of all completions. Raises TkError, naming reward, row and mend, for one that misbehaves."""
        batch = self._batch(flat, moment or Moment())
        found: dict[str, Any] = {}
        for name, scorer in self.rewards.items():
            own = replace(batch, **_ears(name, batch, self.heard))
            try:
                found[name] = limited(partial(scorer.reward, own), scorer.limit)
            except TooLong:
                raise _stuck(name, scorer.limit, flat) from None
            except RAISED as error:
                raise self._failed(name, flat, error) from error
        waiting = {name: value for name, value in found.items() if inspect.isawaitable(value)}
        if waiting:
            found |= self._awaited(waiting, flat)
        return {name: _checked(name, value, flat) for name, value in found.items()}

    def close(self) -> None:
        """End what async rewards have left running. What is stuck in a thread is left behind."""
        engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.close()
        loop, self._loop = self._loop, None
        if loop is None or loop.is_running():
            return
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()  # waits for no thread

    def _batch(self, flat: Flat, moment: Moment) -> Scored:
        columns = sorted(self._columns.union(*(sample.columns for sample, _ in flat)))
        return Scored(
            prompts=[sample.messages for sample, _ in flat],
            completions=[Message("assistant", completion.text) for _, completion in flat],
            completion_ids=[completion.ids for _, completion in flat],
            finish_reasons=[completion.finish_reason for _, completion in flat],
            columns={name: [sample.columns.get(name) for sample, _ in flat] for name in columns},
            plain=[sample.plain for sample, _ in flat],
            origins=[sample.origin for sample, _ in flat],
            engines=self._engines,
            moment=moment,
        )

    def _awaited(self, waiting: Mapping[str, Awaitable[Any]], flat: Flat) -> dict[str, Any]:
        """What some rewards come to, awaited together."""
        loop = self._loop = self._loop or asyncio.new_event_loop()
        limits = {name: self.rewards[name].limit for name in waiting}
        tasks = {name: loop.create_task(_outcome(found, limits[name])) for name, found in waiting.items()}
        blocking = max(limits.values()) + 1.0  # one that does not let the loop go on
        stuck = ""
        try:
            limited(lambda: loop.run_until_complete(asyncio.wait(tasks.values())), blocking)
        except TooLong:
            stuck = next((name for name, task in tasks.items() if not task.done()), next(iter(tasks)))
            self.close()
        results = {}
        for name, task in tasks.items():
            value, error = task.result() if task.done() and name != stuck else (None, TooLong())
            if isinstance(error, TooLong):
                raise _stuck(name, limits[name], flat)
            if error is not None:
                raise self._failed(name, flat, error) from error
            results[name] = value
        return results

    def _failed(self, name: str, flat: Flat, error: BaseException) -> TkError:
        if isinstance(error, TkError):
            return error
        where = _rows(flat)
        for one in flat if len(flat) > 1 else ():
            try:
                limited(partial(self._alone, self.rewards[name], one), self.rewards[name].limit)
            except TooLong:
                break
            except RAISED as alone:
                error, where = alone, f" for {one[0].origin}"
                break
        return TkError(
            f"rewards.{name}: it raised {_what(error)}{where}: mend the reward, or let it return None where it does not "
            "apply."
        )

    def _alone(self, scorer: Scorer, one: tuple[Sample, Completion]) -> None:
        """Asked about one completion only, to find the row that it fails at."""
        found = scorer.reward(self._batch([one], Moment()))
        if inspect.isawaitable(found):
            loop = self._loop = self._loop or asyncio.new_event_loop()
            _, error = loop.run_until_complete(_outcome(found, scorer.limit))
            if error is not None:
                raise error


async def _outcome(found: Awaitable[Any], seconds: float) -> tuple[Any, BaseException | None]:
    """What a reward comes to, or what it raised: TooLong where its time is over, not where a call of its own timed out."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await found, None
    except (*RAISED, TooLong) as error:  # TooLong: it blocked the loop
        return None, TooLong() if limit.expired() else error


def _ears(name: str, batch: Scored, heard: Heard) -> dict[str, Any]:
    """`log` and `note` of one reward's batch."""

    def log(figure: str, value: float) -> None:
        heard.figures.setdefault(f"rewards/{name}/{figure}", []).append(float(value))

    def note(column: str, values: Sequence[Any]) -> None:
        told = [_plain(value) for value in values]
        if len(told) != len(batch.origins):
            raise ValueError(f"{column!r} has {len(told)} values for {len(batch.origins)} completions")
        both = zip(batch.origins, told, strict=True)
        heard.notes.extend({"reward": name, "origin": o, "column": column, "value": value} for o, value in both)

    return {"log": log, "note": note}


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON does not know as its text."""
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's and torch's
    return json.loads(json.dumps(value, default=str))


# --- what is wrong ---


def _checked(name: str, found: Any, flat: Flat) -> list[float | None]:
    """Scores as numbers. Raises TkError for anything else."""
    if isinstance(found, (str, bytes, Mapping)) or not isinstance(found, Iterable):
        raise TkError(
            f"rewards.{name}: it returned {_short(found)} ({type(found).__name__}), not a list with a score a completion."
        )
    values = list(found)
    if len(values) != len(flat):
        raise TkError(
            f"rewards.{name}: it returned {len(values)} scores for {len(flat)} completions{_rows(flat)}: give one for "
            "each, None where it does not apply."
        )
    return [_number(name, value, sample.origin) for value, (sample, _) in zip(values, flat, strict=True)]


def _number(name: str, value: Any, origin: str) -> float | None:
    if value is None:
        return None
    number = float(value) if not isinstance(value, (str, bytes)) and hasattr(type(value), "__float__") else math.nan
    if math.isfinite(number):
        return number
    raise TkError(
        f"rewards.{name}: it returned {_short(value)} ({type(value).__name__}) for {origin}: a score is a finite number, "
        "or None where the reward does not apply."
    )


def _stuck(name: str, limit: float, flat: Flat) -> StuckError:
    return StuckError(
        f"rewards.{name}: it took longer than {limit:g} seconds{_rows(flat)}. Look whether it waits for something that "
        f"does not come, or give it more time: --rewards.{name}.time-limit SECONDS."
    )


def _what(error: BaseException) -> str:
    """An error with its place: the last line of a local file, else the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [f for f, module in zip(frames, names, strict=True) if module.startswith("tk_local_")] or frames
    return f"{said} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else said


def _rows(flat: Flat) -> str:
    """The rows of a batch, in words."""
    origins = list(dict.fromkeys(sample.origin for sample, _ in flat))
    if not origins:
        return ""
    return f" for {origins[0]}" if len(origins) == 1 else f" for {origins[0]} … {origins[-1]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
