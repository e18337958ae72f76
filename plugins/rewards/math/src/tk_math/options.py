"""Options of the reward `accuracy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class AccuracyOptions:
    """How the two answers are found and compared."""

    column: Annotated[str, doc("Column with the gold answer; `answer` is read where a row has no such column.")] = (
        "solution"
    )
    extract: Annotated[
        Literal["any", "latex", "boxed"],
        doc("Where a completion's answer may stand: any number or formula, only LaTeX, or only \\boxed{}."),
    ] = "any"
    decimals: Annotated[int, doc("Decimal places to which numbers are compared.", ge=0, le=15)] = 6
    timeout: Annotated[float, doc("Seconds to check one answer; a slower one counts as wrong.", gt=0)] = 5.0
    workers: Annotated[int, doc("Processes that check answers side by side.", ge=1)] = 1
    memory: Annotated[
        int, doc("Memory that one of them may take, in megabytes (where the system can limit it).", ge=256)
    ] = 2048
