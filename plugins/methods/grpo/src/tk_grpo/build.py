"""The parts that have no options, as they are built."""

from __future__ import annotations

from tk_grpo import advantages, objective
from tk_grpo.contracts import Advantage, Aggregation, Ratio


def leave_one_out() -> Advantage:
    return advantages.leave_one_out


def token() -> Ratio:
    return objective.token_ratio


def sequence() -> Ratio:
    return objective.sequence_ratio


def sequence_sum() -> Ratio:
    return objective.sequence_sum_ratio


def by_sequence() -> Aggregation:
    return objective.by_sequence


def by_token() -> Aggregation:
    return objective.by_token


def by_constant() -> Aggregation:
    return objective.by_constant
