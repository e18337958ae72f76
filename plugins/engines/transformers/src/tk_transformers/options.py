"""Options of the engine `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class TransformersOptions:
    """Generation on the module in memory."""

    max_batch: Annotated[int, doc("Rows that are decoded together.", ge=1)] = 16
    seed: Annotated[int | None, doc("Seed of requests that bring none; chance unless given.", ge=0)] = None
