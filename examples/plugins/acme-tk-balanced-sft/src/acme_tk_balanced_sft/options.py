"""Options of the method `balanced-sft`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk import doc


@dataclass(frozen=True)
class BalancedSftOptions:
    """Options of `balanced-sft`."""

    by_answer: Annotated[
        float, doc("Share of the mean over answers, each by its own length; the rest is over tokens.", ge=0, le=1)
    ] = 0.5
    train_on: Annotated[
        Literal["all-assistant", "last", "all"],
        doc("Which messages are trained: the assistant's, those after the last user message, or all."),
    ] = "all-assistant"
