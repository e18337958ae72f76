"""What was generated, row by row: written to a file that is in its place when all of it is there, or printed as it comes.

A row is let go of when it is written, so that memory does not grow with their number.
"""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tk.cli.output import as_json, as_json_rows, table
from tk.cli.progress import Counted, counted
from tk.errors import UsageError
from tk.parts import Part

if TYPE_CHECKING:
    from tk.inference import Answer, Numbers


class Generated(Counted, Protocol):
    """Items that can be made in several tries. made_with: what they depend on."""

    @property
    def made_with(self) -> Mapping[str, Any]: ...

    def after(self, done: int) -> int:
        """Leave out the first `done`; fewer, where some belong together: how many they are."""
        ...


def tell(items: Generated, rows: Rows, to: Path | None, json: bool, resume: bool = False) -> None:
    """Rows of all items: to a JSONL file (with `json`, what it holds as JSON), as a JSON array, or for people."""
    if resume and to is None:
        raise UsageError("--resume: name the file that is to be gone on with: --to FILE.")
    if to is not None:
        with Part(to, items.made_with, resume=resume) as part:
            _write(items, rows, part)
        rows.summary(to, len(items), json)
    elif json:
        as_json_rows(rows.of(item) for item in counted(items, rows.what, sys.stderr))
    else:
        for item in items:
            rows.show(rows.of(item))


def _write(items: Generated, rows: Rows, part: Part) -> None:
    part.keep(items.after(part.kept))
    for row in part.lines() if part.kept else ():
        rows.count(row)
    if part.kept:
        print(f"{part.kept} {rows.what} are there; on with the next", file=sys.stderr)
    written = part.kept
    try:
        with part.writing() as write:
            for item in counted(items, rows.what, sys.stderr, begin=part.kept):
                write(json_.dumps(rows.of(item), ensure_ascii=False))
                written += 1
    except BaseException:
        if written:
            print(f"{written} {rows.what} are kept: --resume goes on with the next", file=sys.stderr)
        raise


@dataclass
class Rows:
    """Rows of one kind. what: their name in the plural. of: what is written of an item."""

    what: str
    of: Callable[[Any], dict[str, Any]]

    def count(self, row: Mapping[str, Any]) -> None:
        """A row that was written by an earlier try."""

    def show(self, row: Mapping[str, Any]) -> None:
        print(json_.dumps(row, ensure_ascii=False))

    def summary(self, path: Path, count: int, json: bool) -> None:
        if json:
            as_json({"path": str(path), self.what: count})
        else:
            print(f"{count} {self.what}: {path}")


class AnswerRows(Rows):
    """Rows of answers, and the means of their rewards, kept while the answers go by."""

    def __init__(self) -> None:
        super().__init__("answers", self._of)
        self._sums: dict[str, tuple[float, int]] = {}
        self._errors = 0

    def _of(self, answer: Answer) -> dict[str, Any]:
        row = answer_row(answer)
        self.count(row)
        return row

    def count(self, row: Mapping[str, Any]) -> None:
        self._errors += "error" in row
        for name, value in row.get("rewards", {}).items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total, count) if value is None else (total + value, count + 1)

    def show(self, row: Mapping[str, Any]) -> None:
        print(f"[{row['origin']}] {row['messages'][-1]['content']}")
        print(f"  {row.get('error') or row['answer']}")
        for name, value in row.get("rewards", {}).items():
            print(f"  {name}: {'not applicable' if value is None else value}")

    def summary(self, path: Path, count: int, json: bool) -> None:
        means = {name: total / scored if scored else None for name, (total, scored) in sorted(self._sums.items())}
        if json:
            as_json({"path": str(path), self.what: count, "errors": self._errors, "rewards": means})
            return
        super().summary(path, count, json)
        if self._errors:
            print(f"{self._errors} of them have an error instead of an answer: the field error says why.")
        rows = [
            {
                "reward": name,
                "mean": "-" if mean is None else f"{mean:.4f}",
                "scored": self._sums[name][1],
                "of": count,
            }
            for name, mean in means.items()
        ]
        if rows:
            table(rows, {"reward": "REWARD", "mean": "MEAN", "scored": "SCORED", "of": "ROWS"})


def answer_row(answer: Answer) -> dict[str, Any]:
    return {
        "origin": answer.origin,
        "messages": [{"role": m.role, "content": m.text} for m in answer.prompt],
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
        **({"error": answer.error} if answer.error else {}),
        **({"rewards": dict(answer.rewards)} if answer.rewards else {}),
        **({"logprobs": list(answer.logps)} if answer.logps is not None else {}),
        **({"top_logprobs": [dict(top) for top in answer.top]} if answer.top is not None else {}),
    }


def scores_row(row: Numbers) -> dict[str, Any]:
    label = {} if row.label is None else {"label": row.label}
    return {"origin": row.origin, **label, "scores": dict(row.scores)}


def vector_row(row: Numbers) -> dict[str, Any]:
    return {"origin": row.origin, "vector": list(row.values)}
