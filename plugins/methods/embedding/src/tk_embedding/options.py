"""Options of the method `embedding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class EmbeddingOptions:
    """Options of `embedding`."""

    query_prefix: Annotated[str, doc("Text before every query, such as an instruction.")] = ""
    passage_prefix: Annotated[str, doc("Text before every passage.")] = ""
