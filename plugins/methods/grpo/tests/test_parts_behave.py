"""The parts hold what is asked of every part, and the checks find parts that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tk import plugins
from tk_grpo.testing import check_advantage, check_aggregation, check_clip, check_ratio

CHECKS: dict[str, Callable[[Any], None]] = {
    "advantages": check_advantage,
    "ratios": check_ratio,
    "clips": check_clip,
    "aggregations": check_aggregation,
}


def own() -> list[tuple[str, str]]:
    registry = plugins.load()
    return [(kind, c.name) for kind in CHECKS for c in registry.all(kind) if c.distribution == "tk-plugin-grpo"]


@pytest.mark.parametrize(("kind", "name"), own())
def test_a_part_holds_what_is_asked_of_every_part(kind: str, name: str) -> None:
    CHECKS[kind](plugins.load().get(kind, name).build())


@pytest.mark.parametrize(
    ("kind", "part", "message"),
    [
        ("advantages", lambda rewards, lengths: rewards - rewards.mean(1, keepdim=True), "infinite or NaN"),
        ("advantages", lambda rewards, lengths: rewards.nan_to_num().cumsum(1) * ~rewards.isnan(), "where it stands"),
        ("advantages", lambda rewards, lengths: rewards.nan_to_num() + 1, "no reward applies"),
        ("advantages", lambda rewards, lengths: torch.zeros_like(rewards), "nothing is learnt"),
        ("ratios", lambda log_ratio, rows, lengths, reduce: log_ratio.exp(), "has not moved"),
        ("ratios", lambda log_ratio, rows, lengths, reduce: log_ratio - log_ratio.mean(), "tokens of another"),
        ("ratios", lambda log_ratio, rows, lengths, reduce: log_ratio * 0, "no finite gradient"),
        ("clips", lambda ratio, advantage: (2 * ratio * advantage, torch.zeros_like(ratio)), "not the advantages"),
        ("clips", lambda ratio, advantage: (ratio * advantage, torch.ones_like(ratio)), "counts as clipped"),
        ("aggregations", lambda lengths, limit: (lengths / lengths.sum(), lengths), "the answers beside it"),
        ("aggregations", lambda lengths, limit: (1 / lengths, lengths), "factors are"),
    ],
)
def test_what_is_wrong_with_a_part_is_told(kind: str, part: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        CHECKS[kind](part)
