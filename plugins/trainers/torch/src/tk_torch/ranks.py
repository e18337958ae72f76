"""Decisions that one rank takes for all, so that no rank waits for another that has given up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from tk.compose import Plan
from tk.contracts import Strategy, World
from tk.errors import TkError, UsageError
from tk_parallel.processes import decide, exchange
from tk_torch.files import json_text

T = TypeVar("T")


def on_rank_0(strategy: Strategy, world: World, action: Callable[[], Any]) -> Any:
    """Do it on rank 0 and tell every rank the (JSON-able) result; a TkError is raised on every rank."""
    failure: TkError | None = None
    outcome: dict[str, Any] = {}
    if world.rank == 0:
        try:
            outcome = {"value": action()}
        except TkError as error:
            failure = error
            outcome = {"error": str(error), "usage": isinstance(error, UsageError)}
    told = decide(strategy.gather, outcome)
    if failure is not None:
        raise failure
    if "error" in told:
        raise (UsageError if told["usage"] else TkError)(told["error"])
    return told["value"]


def together(strategy: Strategy, action: Callable[[], T]) -> T:
    """Do it on every rank. Where it failed with a TkError on any, one is raised on all: none waits for another."""
    failure: TkError | None = None
    found: list[T] = []
    try:
        found.append(action())
    except TkError as error:
        failure = error
    told = exchange(strategy.gather, {"error": str(failure) if failure else ""})
    if failure is not None:
        raise failure
    for rank, part in enumerate(told):
        if part["error"]:
            raise TkError(f"rank {rank}: {part['error']}")
    return found[0]


def check_same_run(plan: Plan, strategy: Strategy) -> None:
    """Every rank has the same config and plugins. Raises UsageError naming what differs."""
    config = {section: value for section, value in plan.tree.items() if section != "output"}
    own = {
        "config": hashlib.sha256(json_text(config).encode()).hexdigest(),
        "plugins": plan.registry.fingerprint(),
    }
    told = exchange(strategy.gather, own)
    for what in own:
        different = [rank for rank, part in enumerate(told) if part[what] != told[0][what]]
        if different:
            raise UsageError(
                f"The processes of this run have different {what}: rank {different[0]} differs from rank 0. Start all "
                "of them with the same command, in the same environment."
            )
