"""The reward `length`."""

from __future__ import annotations

from collections.abc import Sequence

from acme_tk_length.options import LengthOptions
from tk.contracts import Scored


class Length:
    """A Reward (tk.contracts): min(1, max(0, 1 - (length - budget) / slack)); None where tokens are not known.

    The shape of DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), shifted to 0 … 1.
    """

    def __init__(self, options: LengthOptions) -> None:
        self.options = options

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        return [None if length is None else self._score(length) for length in self._lengths(batch)]

    def _lengths(self, batch: Scored) -> Sequence[int | None]:
        if self.options.unit == "words":
            return [len(message.text.split()) for message in batch.completions]
        if self.options.unit == "characters":
            return [len(message.text) for message in batch.completions]
        if not batch.completion_ids:
            return [None] * len(batch.completions)
        return [len(ids) for ids in batch.completion_ids]

    def _score(self, length: int) -> float:
        return min(1.0, max(0.0, 1.0 - (length - self.options.budget) / self.options.slack))
