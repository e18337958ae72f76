"""Options of the data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tk.config.options import doc


@dataclass(frozen=True)
class ChatterbotOptions:
    """Which conversations of the corpus are used, and how long lists are read."""

    language: Annotated[str, doc("Language of the conversations: a folder of the corpus, such as english.")] = "english"
    topics: Annotated[list[str], doc("Topics to use: files of the corpus, such as science; all unless given.")] = field(
        default_factory=list
    )
    alternatives: Annotated[
        list[str],
        doc("Topics whose lists are a question followed by several answers to it, where others are dialogues."),
    ] = field(default_factory=lambda: ["computers", "emotion", "psychology"])
    pairs: Annotated[
        bool, doc("Preference pairs: the answer, and as the worse one the answer to another question of the corpus.")
    ] = False
