"""Rewards of what was generated: built, asked under a time limit, and held to their contract.

Plain rewards are called one after another; what `async` ones return is awaited together.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tk.contracts import Completion, Moment, Reward, Scored
from tk.errors import StuckError, TkError
from tk.limits import TooLong, limited
from tk.sample import Message, Sample

if TYPE_CHECKING:
    from tk.compose import Plan

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

    figures: name -> values. notes: reward, row, column and value of each completion.
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


def score(
    rewards: Mapping[str, Scorer], flat: Flat, moment: Moment | None = None, heard: Heard | None = None
) -> dict[str, list[float | None]]:
    """Each reward's scores of all completions. Raises TkError, naming reward, row and mend, for one that misbehaves."""
    batch = _batch(flat, moment or Moment())
    found: dict[str, Any] = {}
    for name, scorer in rewards.items():
        own = replace(batch, **_ears(name, batch, heard or Heard()))
        try:
            found[name] = limited(partial(scorer.reward, own), scorer.limit)
        except TooLong:
            raise _stuck(name, scorer.limit, flat) from None
        except (Exception, SystemExit) as error:
            raise _failed(name, scorer, flat, error) from error
    waiting = {name: value for name, value in found.items() if inspect.isawaitable(value)}
    if waiting:
        found |= _awaited({name: (rewards[name], value) for name, value in waiting.items()}, flat)
    return {name: _checked(name, value, flat) for name, value in found.items()}


def _batch(flat: Flat, moment: Moment) -> Scored:
    columns = sorted({name for sample, _ in flat for name in sample.extras})
    return Scored(
        prompts=[sample.messages for sample, _ in flat],
        completions=[Message("assistant", completion.text) for _, completion in flat],
        completion_ids=[completion.ids for _, completion in flat],
        finish_reasons=[completion.finish_reason for _, completion in flat],
        columns={name: [sample.extras.get(name) for sample, _ in flat] for name in columns},
        plain=[sample.plain for sample, _ in flat],
        origins=[sample.origin for sample, _ in flat],
        moment=moment,
    )


def _ears(name: str, batch: Scored, heard: Heard) -> dict[str, Any]:
    """`log` and `note` of one reward's batch."""

    def log(figure: str, value: float) -> None:
        heard.figures.setdefault(f"rewards/{name}/{figure}", []).append(float(value))

    def note(column: str, values: Sequence[Any]) -> None:
        told = [{"reward": name, "origin": o, column: v} for o, v in zip(batch.origins, values, strict=False)]
        heard.notes.extend(told)

    return {"log": log, "note": note}


# --- awaiting ---


def _awaited(waiting: Mapping[str, tuple[Scorer, Awaitable[Any]]], flat: Flat) -> dict[str, Any]:
    """What some rewards come to, awaited together in a loop of their own."""
    loop = asyncio.new_event_loop()
    tasks = {name: loop.create_task(_within(scorer.limit, found)) for name, (scorer, found) in waiting.items()}
    blocking = max(scorer.limit for scorer, _ in waiting.values()) + 1.0  # one that does not let the loop go on
    running = ""
    try:
        limited(lambda: loop.run_until_complete(asyncio.wait(tasks.values())), blocking)
    except TooLong:
        running = next((name for name, task in tasks.items() if not task.done()), next(iter(tasks)))
    finally:
        for task in tasks.values():
            task.cancel()
        loop.close()  # waits for no thread
    results = {}
    for name, task in tasks.items():
        scorer = waiting[name][0]
        error = None if name == running or task.cancelled() or not task.done() else task.exception()
        if name == running or isinstance(error, (TooLong, TimeoutError)):
            raise _stuck(name, scorer.limit, flat)
        if error is not None:
            raise _failed(name, scorer, flat, error) from error
        results[name] = task.result()
    return results


async def _within(seconds: float, found: Awaitable[Any]) -> Any:
    try:
        return await asyncio.wait_for(found, seconds)
    except TooLong:  # blocked the loop, and was interrupted
        raise TimeoutError from None


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


def _failed(name: str, scorer: Scorer, flat: Flat, error: BaseException) -> TkError:
    if isinstance(error, TkError):
        return error
    where = _rows(flat)
    for one in flat if len(flat) > 1 else ():
        try:
            limited(partial(_alone, scorer, one), scorer.limit)
        except TooLong:
            break
        except (Exception, SystemExit) as alone:  # noqa: BLE001 - told below
            error, where = alone, f" for {one[0].origin}"
            break
    return TkError(
        f"rewards.{name}: it raised {_what(error)}{where}: mend the reward, or let it return None where it does not apply."
    )


def _alone(scorer: Scorer, one: tuple[Sample, Completion]) -> None:
    """Asked about one completion only, to find the row that it fails at."""
    found = scorer.reward(_batch([one], Moment()))
    if inspect.isawaitable(found):
        asyncio.run(_within(scorer.limit, found))


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
