"""The dialect `trl`: functions of prompts and completions, as TRL's GRPOTrainer takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from tk import Spec
from tk.contracts import Scored
from tk_reward_dialects.calls import POSITIONAL, call, plain, spec_of, state

FIRST = ["prompts", "completions"]
KNOWN = {*FIRST, "completion_ids"}


class Trl:
    """Every function that a file defines and that can only be a reward."""

    def offer(self, name: str) -> ModuleType | None:
        return None

    def read(self, module: ModuleType) -> Iterator[tuple[str, Spec]]:
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__ and value.__name__ == name
            if own and not name.startswith("_") and is_reward(value):
                yield "rewards", spec_of(name.replace("_", "-"), name, value.__doc__, partial(reward_of, name, value))


def is_reward(function: Callable[..., Any]) -> bool:
    """Whether it takes prompts and completions first, or one of them by name beside whatever else there is."""
    parameters = list(inspect.signature(function).parameters.values())
    if [p.name for p in parameters[:2] if p.kind in POSITIONAL] == FIRST:
        return True
    return any(p.name in KNOWN for p in parameters) and any(p.kind is p.VAR_KEYWORD for p in parameters)


def reward_of(name: str, function: Callable[..., Any]) -> Callable[[Scored], Any]:
    """The function as a reward of tk: called as TRL calls it."""

    def reward(batch: Scored) -> Any:
        return call(name, function, (), arguments(batch))

    return reward


def arguments(batch: Scored) -> dict[str, Any]:
    """All keywords that TRL gives. A row whose prompt is text has text, as TRL's "standard" format."""
    text = [*batch.plain, *[False] * (len(batch.prompts) - len(batch.plain))]
    pairs = list(zip(text, batch.prompts, batch.completions, strict=True))
    return {
        **batch.columns,
        "prompts": [p[-1].text if is_text else [plain(m) for m in p] for is_text, p, _ in pairs],
        "completions": [c.text if is_text else [plain(c)] for is_text, _, c in pairs],
        "completion_ids": [list(ids) for ids in batch.completion_ids],
        "trainer_state": state(batch),
        "log_metric": batch.log,
        "log_extra": batch.note,
    }
