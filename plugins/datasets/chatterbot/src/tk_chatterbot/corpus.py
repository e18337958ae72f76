"""The YAML lists of chatterbot-corpus as rows of messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from tk.contracts import Row, RowSet
from tk.errors import DataError, UsageError, nearest
from tk_chatterbot.options import ChatterbotOptions

_FOLDED = " - "
"""What YAML makes of the line breaks and dashes of a list that the corpus indents as continued text."""


class Chatterbot:
    """Conversations {"messages": […], "topic": …} in the order of topics and files, each once, or what is made of them."""

    def __init__(self, options: ChatterbotOptions) -> None:
        self.options = options

    def open(self, path: str = "") -> RowSet:
        """All rows. Raises UsageError for a language or topic that the corpus has not."""
        folder = _chosen(files("chatterbot_corpus") / "data", [self.options.language], "language")[0]
        topics = _chosen(folder, self.options.topics, "topic")
        return _Rows([row for topic in topics for row in self._conversations(topic)], self.options.rows)

    def _conversations(self, topic: Traversable) -> Iterator[Row]:
        name = topic.name.removesuffix(".yml")
        for number, turns in enumerate(_lists(topic), 1):
            origin = f"chatterbot:{name}:{number}"
            several = name in self.options.alternatives
            for said in [[turns[0], answer] for answer in turns[1:]] if several else [turns]:
                if len(said) < 2 or not all(isinstance(text, str) and text.strip() for text in said):
                    raise DataError(f"{origin}: not a conversation of two turns or more, all text.")
                yield Row({"messages": _messages(said), "topic": name}, origin)


class _Rows:
    """Rows of one form, out of the conversations as they stand in the files."""

    def __init__(self, conversations: Sequence[Row], form: str) -> None:
        whole = _once(conversations, lambda row: json.dumps(row.data["messages"]))
        self.rows = FORMS[form](whole)
        known = "\n".join(json.dumps(row.data["messages"]) for row in whole)
        self.fingerprint = hashlib.sha256(f"{form}\n{known}".encode()).hexdigest()
        repeated = len(conversations) - len(self.rows)
        self.notes = (f"{repeated} repeated {REPEATED[form]} are used once",) if repeated else ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def _once(rows: Sequence[Row], key: Callable[[Row], str]) -> list[Row]:
    """The first row of each key."""
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(key(row), row)
    return list(unique.values())


def _pairs(conversations: Sequence[Row]) -> list[Row]:
    """Conversations up to their last answer, with that of another conversation as the worse one."""
    answers = [_answered(row)[-1]["content"] for row in conversations]
    count, pairs = len(answers), []
    for index, row in enumerate(conversations):
        *prompt, answer = _answered(row)
        others = (answers[(index + step) % count] for step in range(count // 2, 2 * count))
        other = next(text for text in others if text != answer["content"])
        pairs.append(
            replace(row, data={"prompt": prompt, "chosen": answer["content"], "rejected": other, **_topic(row)})
        )
    return pairs


def _passages(conversations: Sequence[Row]) -> list[Row]:
    """What is said first as a query, and what is answered as its passage."""
    rows = _once(conversations, _question)
    return [
        replace(row, data={"query": _question(row), "positive": row.data["messages"][1]["content"], **_topic(row)})
        for row in rows
    ]


def _labels(conversations: Sequence[Row]) -> list[Row]:
    """What is said first, with the topic as its label."""
    rows = _once(conversations, _question)
    return [replace(row, data={"text": _question(row), "label": row.data["topic"]}) for row in rows]


FORMS: dict[str, Callable[[Sequence[Row]], list[Row]]] = {
    "conversations": list,
    "pairs": _pairs,
    "passages": _passages,
    "labels": _labels,
}
REPEATED = {"conversations": "conversations", "pairs": "conversations", "passages": "questions", "labels": "questions"}


def _question(row: Row) -> str:
    said: str = row.data["messages"][0]["content"]
    return said


def _topic(row: Row) -> dict[str, str]:
    return {"topic": row.data["topic"]}


def _answered(row: Row) -> list[dict[str, str]]:
    """The messages up to the assistant's last one."""
    messages: list[dict[str, str]] = row.data["messages"]
    return messages if messages[-1]["role"] == "assistant" else messages[:-1]


def _messages(turns: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def _lists(topic: Traversable) -> Iterator[list[Any]]:
    """The conversations of a file, every scalar as text. Those that were folded into one text are unfolded again."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    for turns in yaml.load(topic.read_text(encoding="utf-8"), Loader=loader)["conversations"]:
        if isinstance(turns, str) or len(turns) == 1:
            folded = turns if isinstance(turns, str) else turns[0]
            yield [text.strip().strip("'\"") for text in folded.split(_FOLDED)]
        else:
            yield turns


def _chosen(folder: Traversable, names: Sequence[str], what: str) -> list[Traversable]:
    """Entries of a folder by name, all where none is given, sorted."""
    known = {e.name.removesuffix(".yml"): e for e in folder.iterdir() if e.is_dir() or e.name.endswith(".yml")}
    for name in names:
        if name not in known:
            raise UsageError(
                f"chatterbot: no {what} {name!r}.{nearest(name, known)} Known: {', '.join(sorted(known))}."
            )
    return [known[name] for name in sorted(known) if not names or name in names]
