"""Options of the engine `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class TransformersOptions:
    """Generation on the module in memory."""

    max_batch: Annotated[int, doc("Answers that are on their way at once.", ge=1)] = 32
    max_read: Annotated[
        int,
        doc("Prompt tokens that are read between two tokens of the answers under way; longer prompts in pieces.", ge=1),
    ] = 2048
    prefix_cache: Annotated[
        int, doc("Tokens of ended requests kept for those that begin alike, as a talk that goes on; 0: none.", ge=0)
    ] = 4096
    seed: Annotated[int | None, doc("Seed of requests that bring none; chance unless given.", ge=0)] = None
