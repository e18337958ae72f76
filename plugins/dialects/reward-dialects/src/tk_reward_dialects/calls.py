"""How a foreign reward is called: the keywords that it takes of all that there are, and what both frameworks give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from tk import RewardSpec, TkError
from tk.contracts import Scored
from tk.sample import Message

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def spec_of(name: str, other: str, text: str | None, make: Callable[[], Any]) -> RewardSpec:
    """A reward that is made when it is used. other: a spelling of its name that will do too."""
    aliases = () if other == name else (other,)
    summary = (text or "").strip().split("\n")[0]
    return RewardSpec(name=name, aliases=aliases, target=lambda *_, **__: make(), summary=summary)


def call(name: str, function: Callable[..., Any], first: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
    """`function(*first, **given)`, without keywords that it does not take.

    Raises TkError where it needs one that is not there: a column that the rows do not have.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    rest = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][len(first) :]
    missing = [p.name for p in rest if p.default is p.empty and p.name not in given]
    if missing:
        raise TkError(
            f"rewards.{name}: it needs the column {missing[0]!r}, which the rows do not have; they have "
            f"{', '.join(sorted(given))}. Rename one: data.sources.NAME.columns: {{theirs: {missing[0]}}}."
        )
    taken = {p.name for p in rest}
    return function(*first, **{k: v for k, v in given.items() if takes_all or k in taken})


def state(batch: Scored) -> SimpleNamespace:
    """What rewards read of a trainer's state."""
    moment = batch.moment
    return SimpleNamespace(global_step=moment.step, max_steps=moment.steps, epoch=moment.epoch)


def plain(message: Message) -> dict[str, Any]:
    """A message as both frameworks have it."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if not isinstance(message.content, str):
        found["content"] = [{"type": p.type, p.type: p.text if p.type == "text" else p.source} for p in message.content]
    if message.tool_calls:
        calls = [{"name": c.name, "arguments": dict(c.arguments)} for c in message.tool_calls]
        found["tool_calls"] = [{"type": "function", "function": one} for one in calls]
    return found
