"""Rewards under a time limit, held to their contract: what is accepted, and what each fault is told as."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import signal
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest

from tk.contracts import Completion
from tk.errors import StuckError, TkError
from tk.limits import TooLong, limited
from tk.sample import Message, Sample
from tk.scoring import Scorer, Scoring

ROWS = [
    (Sample((Message("user", "?"),), origin=f"rows.jsonl:{i}"), Completion((1,), text, "stop"))
    for i, text in enumerate(["one", "two", "three"], 1)
]


def scored(reward, limit: float = 60.0):
    with contextlib.closing(Scoring({"mine": Scorer(reward, limit)})) as scoring:
        return scoring(ROWS)["mine"]


def returning(value):
    return lambda batch: value


def test_numbers_of_any_kind_are_scores_and_none_is_not_applicable():
    assert scored(returning((True, Decimal("0.5"), None))) == [1.0, 0.5, None]
    assert scored(returning(x for x in (Fraction(1, 4), 2, 0.0))) == [0.25, 2.0, 0.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], r"returned 2 scores for 3 completions for rows.jsonl:1 … rows.jsonl:3: give one for each, None"),
        ([1.0, float("nan"), 1.0], r"returned nan \(float\) for rows.jsonl:2: a score is a finite number, or None"),
        ([1.0, 1.0, float("-inf")], r"returned -inf \(float\) for rows.jsonl:3"),
        (["1", 0, 0], r"returned '1' \(str\) for rows.jsonl:1"),
        ([1, [2], 3], r"returned \[2\] \(list\) for rows.jsonl:2"),
        ([1, 1j, 3], r"returned 1j \(complex\) for rows.jsonl:2"),
        (0.5, r"returned 0.5 \(float\), not a list with a score a completion"),
        (None, r"returned None \(NoneType\), not a list"),
        ("abc", r"returned 'abc' \(str\), not a list"),
        ({"a": 1, "b": 2, "c": 3}, r"returned \{.*\} \(dict\), not a list"),
    ],
)
def test_what_is_no_score_is_told_with_the_row(value, message):
    with pytest.raises(TkError, match="rewards.mine: it " + message):
        scored(returning(value))


def test_the_row_at_which_a_reward_raises_is_found():
    def picky(batch):
        if any(message.text == "two" for message in batch.completions):
            raise KeyError("solution")
        return [1.0] * len(batch.completions)

    async def late(batch):
        await asyncio.sleep(0)
        return picky(batch)

    for reward in (picky, late):
        with pytest.raises(
            TkError,
            match=r"rewards.mine: it raised KeyError: 'solution' \(test_scoring.py:\d+\) for rows.jsonl:2: mend",
        ):
            scored(reward)


def test_a_reward_that_fails_for_all_together_names_the_batch():
    def crowded(batch):
        if len(batch.completions) > 1:
            raise SystemExit(3)
        return [1.0]

    with pytest.raises(TkError, match=r"it raised SystemExit: 3 .* for rows.jsonl:1 … rows.jsonl:3: mend"):
        scored(crowded)


def sleeps(batch):
    time.sleep(60)


def computes(batch):
    while True:
        pass


def swallows(batch):
    while True:
        with contextlib.suppress(Exception):
            time.sleep(60)


def backtracks(batch):
    re.match(r"(a|aa)+$", "a" * 60 + "b")


def pools(batch):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(time.sleep, [3.0] * 3))


async def waits(batch):
    await asyncio.sleep(60)


async def blocks(batch):
    time.sleep(60)


@pytest.mark.parametrize("reward", [sleeps, computes, swallows, backtracks, pools, waits, blocks])
def test_a_reward_that_hangs_is_ended(reward):
    began = time.monotonic()
    with pytest.raises(
        StuckError, match=r"rewards.mine: it took longer than 0.5 seconds for .*--rewards.mine.time-limit"
    ):
        scored(reward, 0.5)
    assert time.monotonic() - began < 10


def test_only_the_one_that_hangs_is_named():
    async def quick(batch):
        return [1.0] * 3

    rewards = {"quick": Scorer(quick, 30.0), "slow": Scorer(waits, 0.3), "other": Scorer(quick, 30.0)}
    with pytest.raises(StuckError, match="rewards.slow"):
        Scoring(rewards)(ROWS)


def test_what_an_async_reward_keeps_of_its_loop_lives_on():
    gate = asyncio.Semaphore(1)

    async def gated(batch):
        async def one():
            async with gate:
                await asyncio.sleep(0)
                return 1.0

        return await asyncio.gather(*(one() for _ in batch.completions))

    with contextlib.closing(Scoring({"mine": Scorer(gated)})) as scoring:
        assert scoring(ROWS) == scoring(ROWS) == {"mine": [1.0] * 3}


@pytest.mark.parametrize("raised", [TimeoutError("the judge is slow"), asyncio.CancelledError(), SystemExit(0)])
def test_what_an_async_reward_raises_is_not_taken_for_its_limit(raised):
    async def judged(batch):
        await asyncio.sleep(0)
        raise raised

    with pytest.raises(TkError, match=rf"rewards.mine: it raised {type(raised).__name__}.* for rows.jsonl:1: mend"):
        scored(judged)


def test_a_batch_has_the_columns_of_all_rows():
    asked = (Message("user", "?"),)
    rows = [
        (Sample(asked, extras={"solution": "4"}, label=2, origin="a:1"), Completion((1,), "4", "stop")),
        (Sample(asked, origin="b:1"), Completion((1,), "hi", "stop")),
    ]
    seen = []

    def reward(batch):
        seen.append(batch.columns)
        return [None] * len(batch.completions)

    scoring = Scoring({"mine": Scorer(reward)}, columns=["solution", "level"])
    scoring(rows)
    scoring(rows[1:])
    assert seen[0] == {"label": [2, None], "level": [None, None], "solution": ["4", None]}
    assert seen[1] == {"level": [None], "solution": [None]}


def test_notes_are_plain_and_as_many_as_completions():
    def telling(batch):
        batch.note("step", [Decimal("0.5"), {"a": (1, 2)}, None])
        return [1.0] * 3

    scoring = Scoring({"mine": Scorer(telling)})
    scoring(ROWS)
    values = [(note["origin"], note["column"], note["value"]) for note in scoring.heard.taken()["notes"]]
    assert values == [
        ("rows.jsonl:1", "step", "0.5"),
        ("rows.jsonl:2", "step", {"a": [1, 2]}),
        ("rows.jsonl:3", "step", None),
    ]

    def short(batch):
        batch.note("seen", [1])
        return [1.0] * 3

    with pytest.raises(TkError, match="rewards.mine: it raised ValueError: 'seen' has 1 values for 3 completions"):
        scored(short)


def test_a_limit_leaves_signals_as_they_were_and_lets_errors_pass():
    before = signal.signal(signal.SIGVTALRM, lambda *_: None)
    mine = signal.getsignal(signal.SIGVTALRM)
    try:
        assert limited(lambda: threading.current_thread() is threading.main_thread(), 5) is True
        with pytest.raises(ZeroDivisionError):
            limited(lambda: 1 / 0, 5)
        assert signal.getsignal(signal.SIGVTALRM) is mine
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
        assert [t for t in threading.enumerate() if t.name == "tk-limit"] == []
    finally:
        signal.signal(signal.SIGVTALRM, before)


def test_a_limit_holds_in_other_threads_too():
    def ask():
        told.append(limited(lambda: 3, 5))
        try:
            limited(lambda: time.sleep(60), 0.2)
        except TooLong:
            told.append("too long")

    told: list[object] = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(10)
    assert told == [3, "too long"]


def test_a_library_may_use_the_alarm_of_its_own():
    """As symbolic checkers of answers do, which works in the main thread only."""

    def alarmed(batch):
        former = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(0.1)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        return [1.0] * 3

    assert scored(alarmed, 5) == [1.0] * 3
