"""DAPO's penalty on long answers."""

from __future__ import annotations

from collections.abc import Sequence

from tk.contracts import Scored
from tk_grpo.options import SoftOverlongOptions


class SoftOverlong:
    """0 up to `limit - margin` tokens, then down to -1 at `limit` and beyond (arXiv 2503.14476, eq. 13)."""

    def __init__(self, options: SoftOverlongOptions) -> None:
        self.options = options

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        start = self.options.limit - self.options.margin
        return [-min(1.0, max(0, len(ids) - start) / self.options.margin) for ids in batch.completion_ids]
