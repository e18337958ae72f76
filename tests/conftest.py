"""What tests of the whole product share: a tiny checkpoint with rows, and the command line in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`tk` as a terminal runs it, exit code and output included, without a process of its own; `typed` is its standard input."""

    def run(*args: str | Path, typed: str = "") -> Done:
        from tk.cli import main

        monkeypatch.setattr(sys, "argv", ["tk", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capfd.readouterr()
        code: int | str | None = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        said = capfd.readouterr()
        return Done(int(code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session")
def squares() -> list[dict[str, object]]:
    """Rows with a question, an answer, and the answer in a column of its own."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{i} times {i}?"},
                {"role": "assistant", "content": f"It is {i * i}."},
            ],
            "answer": str(i * i),
        }
        for i in range(24)
    ]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, squares: Sequence[dict[str, object]]) -> Path:
    """A folder with `model`, a random llama over bytes, and `rows.jsonl`. Tests write nothing into it."""
    from tk_conformance.tiny import tiny_checkpoint

    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in squares))
    return folder
