"""The YAML lists of chatterbot-corpus as rows of messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
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
    """Rows {"messages": […], "topic": …} in the order of topics and files, each conversation once."""

    def __init__(self, options: ChatterbotOptions) -> None:
        self.options = options

    def open(self, path: str = "") -> RowSet:
        """All rows. Raises UsageError for a language or topic that the corpus has not."""
        folder = _chosen(files("chatterbot_corpus") / "data", [self.options.language], "language")[0]
        topics = _chosen(folder, self.options.topics, "topic")
        found = _Conversations([row for topic in topics for row in self._rows(topic)])
        return _Pairs(found) if self.options.pairs else found

    def _rows(self, topic: Traversable) -> Iterator[Row]:
        name = topic.name.removesuffix(".yml")
        for number, turns in enumerate(_lists(topic), 1):
            origin = f"chatterbot:{name}:{number}"
            several = name in self.options.alternatives
            for said in [[turns[0], answer] for answer in turns[1:]] if several else [turns]:
                if len(said) < 2 or not all(isinstance(text, str) and text.strip() for text in said):
                    raise DataError(f"{origin}: not a conversation of two turns or more, all text.")
                yield Row({"messages": _messages(said), "topic": name}, origin)


class _Conversations:
    def __init__(self, rows: Sequence[Row]) -> None:
        unique: dict[str, Row] = {}
        for row in rows:
            unique.setdefault(json.dumps(row.data["messages"]), row)
        self.rows = tuple(unique.values())
        self.fingerprint = hashlib.sha256("\n".join(unique).encode()).hexdigest()
        repeated = len(rows) - len(self.rows)
        self.notes = (f"{repeated} repeated conversations are used once",) if repeated else ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class _Pairs:
    """Conversations up to their last answer, with that of another conversation as the worse one."""

    def __init__(self, conversations: _Conversations) -> None:
        self.rows = tuple(row for row in conversations.rows if len(row.data["messages"]) > 1)
        self.fingerprint = hashlib.sha256(f"{conversations.fingerprint} pairs".encode()).hexdigest()
        self.notes = conversations.notes
        self._answers = [_answered(row)[-1]["content"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        *prompt, answer = _answered(row)
        others = (self._answers[(index + step) % len(self)] for step in range(len(self) // 2, 2 * len(self)))
        other = next(text for text in others if text != answer["content"])
        data = {"prompt": prompt, "chosen": answer["content"], "rejected": other, "topic": row.data["topic"]}
        return Row(data, row.origin)


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
