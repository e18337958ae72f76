"""Options of the method `embedding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class EmbeddingOptions:
    """Options of `embedding`."""

    pooling: Annotated[
        Literal["auto", "mean", "last", "first"],
        doc("How a vector is made of a text's tokens: their mean, or the last or first; auto is as the checkpoint says."),
    ] = "auto"
    query_prefix: Annotated[str, doc("Text before every query, such as an instruction.")] = ""
    passage_prefix: Annotated[str, doc("Text before every passage.")] = ""
