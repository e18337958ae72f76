"""Options of the method `embedding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class EmbeddingOptions:
    """Options of `embedding`."""

    query_prefix: Annotated[str, doc("Text before every query, such as an instruction.")] = ""
    passage_prefix: Annotated[str, doc("Text before every passage.")] = ""
    pooling: Annotated[
        Literal["mean", "last", "first"] | None,
        doc(
            "How a vector is made of a text's tokens: their mean, the last or the first; as the checkpoint says unless given."
        ),
    ] = None
