"""`tk infer` killed in the midst of its work goes on, and comes to the same file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tk.parts import PART


def test_killed_inference_goes_on_and_answers_each_row_once(
    command: Callable[..., Any], inputs: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n} and", "answer": str(n)}) + "\n" for n in range(240)))
    common = ["infer", "--model", str(inputs / "model"), "--input", str(rows), "--rewards", "accuracy"]
    common += ["--sampling.max-tokens", "8", "--sampling.n", "2", "--sampling.temperature", "1", "--sampling.seed", "1"]
    whole, path = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert command(*common, "--to", whole).code == 0
    part = path.with_name(path.name + PART)
    with subprocess.Popen(
        [sys.executable, "-m", "tk", *common, "--to", str(path)], stderr=subprocess.DEVNULL
    ) as killed:
        while not (part.exists() and part.read_bytes().count(b"\n") > 60):
            assert killed.poll() is None
            time.sleep(0.005)
        killed.kill()
    kept = part.read_bytes().count(b"\n")
    assert 60 < kept < 480
    refused = command(*common, "--to", path)
    assert refused.code == 2
    assert "--resume goes on" in refused.err
    done = command(*common, "--to", path, "--resume")
    assert done.code == 0, done.err
    assert f"{kept // 2 * 2} answers are there" in done.err
    assert path.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_a_row_that_the_model_has_no_room_for_has_an_error_and_the_others_their_answers(
    command: Callable[..., Any], inputs: Path, tmp_path: Path
) -> None:
    rows, path = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    prompts = ["long " * 9000 if n in (0, 7, 8, 19) else f"{n} and" for n in range(20)]
    rows.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    common = ["infer", "--model", str(inputs / "model"), "--input", str(rows), "--rewards", "accuracy", "--to", path]
    common += ["--sampling.max-tokens", "3", "--sampling.n", "2", "--sampling.temperature", "1", "--sampling.seed", "1"]
    done = command(*common)
    assert done.code == 0, done.err
    assert "8 of them have an error instead of an answer" in done.out
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [int(row["origin"].rpartition(":")[2]) for row in found] == [n // 2 + 1 for n in range(40)]
    wrong = [row for row in found if "error" in row]
    assert [int(row["origin"].rpartition(":")[2]) for row in wrong] == [1, 1, 8, 8, 9, 9, 20, 20]
    assert {(row["finish_reason"], row["answer"], row.get("rewards")) for row in wrong} == {("error", "", None)}
    assert all("tokens fills the model's" in row["error"] for row in wrong)
    assert all(set(row["rewards"]) == {"accuracy"} for row in found if row not in wrong)
