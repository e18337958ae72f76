"""Two published penalties on the length of answers."""

from __future__ import annotations

from collections.abc import Sequence

from acme_tk_length_penalties.options import OverlongOptions


class Overlong:
    """Soft overlong punishment (DAPO, arXiv 2503.14476, equation 13): 0, then linearly down to -1."""

    def __init__(self, options: OverlongOptions) -> None:
        self.options = options

    def __call__(self, lengths: Sequence[int]) -> Sequence[float]:
        return [-min(1.0, max(0.0, (n - self.options.limit) / self.options.margin)) for n in lengths]


class GroupRange:
    """Length reward of Kimi k1.5 (arXiv 2501.12599, §2.3.3): 0.5 - (length - shortest) / (longest - shortest)."""

    def __call__(self, lengths: Sequence[int]) -> Sequence[float]:
        shortest, longest = min(lengths, default=0), max(lengths, default=0)
        if shortest == longest:
            return [0.0] * len(lengths)
        return [0.5 - (n - shortest) / (longest - shortest) for n in lengths]
