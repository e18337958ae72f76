"""Behaviour of rewards: one finite float or None a completion, whatever the completions are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tk.contracts import Reward, Scored
from tk.sample import Message, Part
from tk.testing.need import is_finite, need

_COMPLETIONS = (
    "",
    " \n",
    "A plain answer.",
    "<think>2 + 2</think>The answer is \\boxed{4}.",
    "```python\nprint(4)\n```",
    '{"name": "f", "arguments": {}}',
    "\\frac{1}{",
    "ünïcödé 漢字 🙂 \u0000 \u202e",
    "word " * 2000,
)


def reward_batches(columns: Mapping[str, Any] | None = None) -> list[Scored]:
    """Batches that every reward must bear: none, one and several completions of all sorts.

    columns: a value for each column that the reward reads; every row gets it.
    """
    texts = [Message("assistant", text) for text in _COMPLETIONS]
    parts = Message("assistant", (Part("text", "in "), Part("text", "parts")), reasoning="because")
    groups: tuple[list[Message], ...] = ([], texts[2:3], [*texts, parts])
    return [
        Scored(
            prompts=[(Message("user", "What is 2 + 2?"),)] * len(group),
            completions=group,
            completion_ids=[tuple(range(len(message.text.split()))) for message in group],
            finish_reasons=["stop" if index % 2 == 0 else "length" for index in range(len(group))],
            columns={name: [value] * len(group) for name, value in (columns or {}).items()},
        )
        for group in groups
    ]


def check_reward(
    reward: Reward, batches: Sequence[Scored] | None = None, *, columns: Mapping[str, Any] | None = None
) -> list[list[float | None]]:
    """Give the reward each batch, what it awaits in an event loop of its own, and check what comes back. Returns the scores.

    batches: those of `reward_batches(columns)` unless given.
    """
    given = reward_batches(columns) if batches is None else batches
    return [_scores(reward, batch) for batch in given]


def _scores(reward: Reward, batch: Scored) -> list[float | None]:
    name, count = type(reward).__name__, len(batch.completions)
    scores: Any = reward(batch)
    if inspect.isawaitable(scores):
        scores = asyncio.run(_await(scores))
    need(isinstance(scores, Sequence), f"{name} returned {type(scores).__name__}, not a sequence")
    need(len(scores) == count, f"{name} returned {len(scores)} scores for {count} completions")
    for score, message in zip(scores, batch.completions, strict=True):
        need(
            score is None or is_finite(score), f"{name} gave {score!r} to {message.text[:60]!r}: a finite float or None"
        )
    return list(scores)


async def _await(pending: Any) -> Any:
    return await pending
