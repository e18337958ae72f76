"""The reward `format`: does a completion match a regular expression?"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tk.contracts import Scored
from tk.errors import UsageError
from tk.sample import Message
from tk_format.options import FormatOptions


class Format:
    """1.0 where the completion matches, 0.0 where not. Raises UsageError for a pattern that is no regular expression.

    Reasoning that a template has taken out of the text is put back as `<think>…</think>` before matching.
    """

    def __init__(self, options: FormatOptions) -> None:
        flags = re.IGNORECASE * options.ignore_case | re.DOTALL * options.dot_all | re.MULTILINE * options.multi_line
        try:
            compiled = re.compile(options.pattern, flags)
        except re.error as error:
            raise UsageError(
                f"rewards.format.pattern: {options.pattern!r} is no regular expression: {error}. "
                "Characters such as ( [ * + ? are written with a backslash where they stand for themselves."
            ) from error
        self.options = options
        self._matches = {"full": compiled.fullmatch, "start": compiled.match, "search": compiled.search}[options.match]

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        return [self._score(message) for message in batch.completions]

    def _score(self, message: Message) -> float:
        text = f"<think>{message.reasoning}</think>{message.text}" if message.reasoning else message.text
        return float(len(text) <= self.options.max_length and self._matches(text) is not None)
