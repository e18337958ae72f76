"""What `tk infer` and `tk embed` write: row by row, whole in the end, each row once however often it is cut off."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tk.cli.generated import AnswerRows, Rows, scores_row, tell
from tk.errors import UsageError
from tk.files import WriteError, writing
from tk.inference import Answer, Numbers
from tk.parts import PART
from tk.sample import Message

COUNT = 200


class Made:
    """Answers that are made when they are asked for: how many of them were alive at once, and what was written by then.

    Two belong together, as two answers to a row do.
    """

    def __init__(self, work: Path | None = None, fails_at: int = -1, model: str = "one") -> None:
        self.work, self.fails_at = work, fails_at
        self.alive = self.begin = 0
        self.most = 0
        self.written: list[int] = []
        self.made_with = {"model.name": model, "rows": ["f1"]}

    def __len__(self) -> int:
        return COUNT

    def after(self, done: int) -> int:
        self.begin = done // 2 * 2
        return self.begin

    def __iter__(self) -> Iterator[Answer]:
        for number in range(self.begin, COUNT):
            if number == self.fails_at:
                raise RuntimeError("out of memory")
            if self.work is not None:
                self.written.append(self.work.read_bytes().count(b"\n"))
            yield self._made(number)

    def _made(self, number: int) -> Answer:
        rewards = {"even": float(number % 2 == 0), "rare": 1.0 if number == 7 else None}
        answer = Answer(f"rows:{number}", (Message("user", "?"),), "é" * 9, "stop", 9, rewards)
        weakref.finalize(answer, self._gone)
        self.alive += 1
        self.most = max(self.most, self.alive)
        return answer

    def _gone(self) -> None:
        self.alive -= 1


class Few(list[Any]):
    made_with: ClassVar[dict[str, str]] = {}

    def after(self, done: int) -> int:
        return done


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    class Meanwhile(Made):
        def __iter__(self) -> Iterator[Answer]:
            for resume in (False, True):
                with pytest.raises(UsageError, match="another process is writing it"):
                    tell(Made(), AnswerRows(), path, json=False, resume=resume)
            yield from super().__iter__()

    tell(Meanwhile(), AnswerRows(), path, json=False)
    assert [line["origin"] for line in lines(path)] == [f"rows:{number}" for number in range(COUNT)]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_each_answer_is_written_before_the_next_is_made_and_none_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    made = Made(path.with_name(path.name + PART))
    tell(made, AnswerRows(), path, json=False)
    assert made.written == list(range(COUNT))
    assert made.most <= 2
    assert [row["origin"] for row in lines(path)] == [f"rows:{n}" for n in range(COUNT)]
    assert list(path.parent.iterdir()) == [path]
    printed = capsys.readouterr()
    assert f"answers {COUNT}/{COUNT}" in printed.err
    first, *table = printed.out.splitlines()
    assert first == f"{COUNT} answers: {path}"
    assert [line.split() for line in table] == [
        ["REWARD", "MEAN", "SCORED", "ROWS"],
        ["even", "0.5000", "200", "200"],
        ["rare", "1.0000", "1", "200"],
    ]


def test_what_was_cut_off_is_gone_on_with_and_each_row_is_there_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    tell(Made(), AnswerRows(), whole, json=False)
    summary = capsys.readouterr().out
    with pytest.raises(RuntimeError, match="out of memory"):
        tell(Made(fails_at=21), AnswerRows(), path, json=False)
    assert "21 answers are kept: --resume goes on with the next" in capsys.readouterr().err
    assert not path.exists()
    part = path.with_name(path.name + PART)
    part.write_bytes(part.read_bytes() + b'{"origin": "half')  # as a kill leaves it
    with pytest.raises(UsageError, match="21 lines of it are there.*--resume goes on"):
        tell(Made(), AnswerRows(), path, json=False)
    with pytest.raises(UsageError, match=r"model\.name \(was 'one', is 'two'\)"):
        tell(Made(model="two"), AnswerRows(), path, json=False, resume=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        tell(Made(fails_at=100), AnswerRows(), path, json=False, resume=True)
    assert "20 answers are there" in capsys.readouterr().err, "of the last row one answer is missing"
    tell(Made(), AnswerRows(), path, json=False, resume=True)
    assert path.read_bytes() == whole.read_bytes()
    assert capsys.readouterr().out.replace(str(path), str(whole)) == summary, "the means are those of all rows"
    assert sorted(tmp_path.iterdir()) == [path, whole]


def test_what_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        tell(Made(fails_at=0), AnswerRows(), tmp_path / "answers.jsonl", json=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="--to FILE"):
        tell(Made(), AnswerRows(), None, json=False, resume=True)


def test_json_is_one_document_that_is_printed_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    made = Made()
    tell(made, AnswerRows(), None, json=True)
    assert [row["origin"] for row in json.loads(capsys.readouterr().out)] == [f"rows:{n}" for n in range(COUNT)]
    assert made.most <= 2
    tell(Few(), AnswerRows(), None, json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_json_beside_a_file_says_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    tell(Few([Numbers("a:1", [0.5], {"good": 0.5}, "good")]), Rows("rows", scores_row), path, json=True)
    assert json.loads(capsys.readouterr().out) == {"path": str(path), "rows": 1}
    assert lines(path) == [{"origin": "a:1", "label": "good", "scores": {"good": 0.5}}]


def test_what_cannot_be_written_is_told_by_its_name_and_other_errors_are_not_dressed_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file/rows.jsonl: cannot be written"), writing(tmp_path / "file/rows.jsonl"):
        pass
    with pytest.raises(ConnectionError), writing(tmp_path / "rows.jsonl"):
        raise ConnectionError("the judge is away")
