"""Options of the data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

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
    rows: Annotated[
        Literal["conversations", "pairs", "passages", "labels"],
        doc(
            "What a row is: a conversation; a preference pair, whose worse answer is that to another question; a question "
            "as the query of its answer; a question with its topic as the label. The last two have each question once."
        ),
    ] = "conversations"
