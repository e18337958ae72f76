"""Options of the reward `format`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc

THINK_THEN_ANSWER = r"\s*<think>(?:(?!</?think>).)+</think>(?=.*\S)(?:(?!</?think>).)*"
"""One non-empty `<think>…</think>` at the start, followed by a non-empty answer (DeepSeek-R1, arXiv 2501.12948)."""


@dataclass(frozen=True)
class FormatOptions:
    """What a completion must look like."""

    pattern: Annotated[str, doc("Regular expression of Python's `re`.", min_length=1)] = THINK_THEN_ANSWER
    match: Annotated[
        Literal["full", "start", "search"], doc("The whole completion matches, its start, or any part of it.")
    ] = "full"
    ignore_case: Annotated[bool, doc("Letters match in either case.")] = False
    dot_all: Annotated[bool, doc("`.` matches line breaks too.")] = True
    multi_line: Annotated[bool, doc("`^` and `$` match at every line.")] = False
    max_length: Annotated[
        int, doc("Longer completions, in characters, score 0 unread, so that no pattern runs for ever.", ge=1)
    ] = 200_000
