"""A local plugin file of rewards that do what rewards should not; each fails on one rank alone."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from tk import component

HERE = os.environ.get("RANK", "1") == "1"
"""Alone, or the second of two processes."""


@component("rewards")
def raises(batch: Any) -> list[float]:
    """Raises at one row."""
    if HERE and any(message[-1].text == "Say 7" for message in batch.prompts):
        raise RuntimeError("no luck")
    return [0.0] * len(batch.completions)


@component("rewards")
def hangs(batch: Any) -> list[float]:
    """Never returns."""
    while HERE:
        time.sleep(0.01)
    return [0.0] * len(batch.completions)


@component("rewards")
async def lost_in_a_thread(batch: Any) -> list[float]:
    """Waits for a thread that goes on after it."""
    if HERE:
        await asyncio.to_thread(time.sleep, 100)
    return [0.0] * len(batch.completions)


@component("rewards")
def not_a_number(batch: Any) -> list[float]:
    """nan for all."""
    return [float("nan") if HERE else 0.0] * len(batch.completions)


@component("rewards")
def same(batch: Any) -> list[float]:
    """Likes everything alike, and tells so."""
    batch.log("liked", 1.0)
    batch.note("text", [message.text for message in batch.completions])
    return [1.0] * len(batch.completions)


@component("rewards", "unmade")
class Unmade:
    """Cannot be built."""

    def __init__(self) -> None:
        raise OSError("there is no judge")


@component("rewards", "reward")
def named_like_a_figure(batch: Any) -> list[float]:
    """Is called what the sum of all rewards is called."""
    return [-5.0] * len(batch.completions)
