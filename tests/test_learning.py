"""The examples, run as a user runs them: each learns, by what is held out (at least 100 rows), and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tk
from tk.plugins import load
from tk_data.prepare import held_out
from tk_smollm import wheel

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(wheel.find() is None, reason="the wheels of models are not installed"),
]
Figures = Mapping[str, Any]


def trained(example: str, run: Path, *flags: str) -> tuple[Figures, Figures]:
    """Runs an example with all cores. Figures before and after training."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [
        str(Path(sys.executable).with_name("tk")),
        "train",
        "-c",
        f"examples/{example}",
        "--output.dir",
        str(run),
    ]
    subprocess.run([*command, *flags], cwd=ROOT, env=environment, check=True)
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "loss.png").is_file()
    evals = [line for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if line["kind"] == "eval"]
    first, last = evals[0], evals[-1]
    assert first["step"] == 0 < last["step"]
    assert first["rows"] == last["rows"] >= 100
    return first, last


def corpus(rows: str) -> list[Mapping[str, str]]:
    component = load().get("datasets", "chatterbot")
    found = component.build(component.config()(rows=rows)).open("")
    return [found[i].data for i in range(len(found))]


def split(count: int, run: Path) -> tuple[list[int], list[int]]:
    """Rows that a run trained on, and those that it held out."""
    given = json.loads((run / "run.json").read_text())["seeds"]
    (held,) = held_out([count], 150, given["train"])
    return sorted(set(range(count)) - set(held)), held


def frozen(texts: Sequence[str]) -> np.ndarray:
    """[N, 384] vectors by sentence-transformers of the model that the examples begin with."""
    from sentence_transformers import SentenceTransformer

    component = load().get("models", "minilm")
    return SentenceTransformer(component.build().resolve("all-minilm-l6-v2"), device="cpu").encode(list(texts))


def test_preference_pairs(tmp_path: Path) -> None:
    first, last = trained("dpo.yaml", tmp_path / "run")
    assert first["accuracy"] == first["accuracy_high"] == 0.5  # what is untrained prefers nothing to its reference
    assert last["accuracy_low"] > 0.5


def test_a_classifier_does_at_least_what_a_linear_model_on_the_frozen_vectors_does(tmp_path: Path) -> None:
    first, last = trained("topics.yaml", tmp_path / "run")
    rows = corpus("labels")
    training, held = split(len(rows), tmp_path / "run")
    vectors, labels = frozen([row["text"] for row in rows]), np.array([row["label"] for row in rows])
    linear = max(
        LogisticRegression(C=c, max_iter=3000)
        .fit(vectors[training], labels[training])
        .score(vectors[held], labels[held])
        for c in (1.0, 10.0, 100.0)
    )
    assert last["accuracy"] > first["accuracy_high"]
    assert last["accuracy"] >= linear


def test_an_embedding_model_finds_more_answers_than_a_linear_model_on_the_frozen_vectors(tmp_path: Path) -> None:
    first, last = trained("answers.yaml", tmp_path / "run")
    assert last["loss"] < first["loss_low"]
    rows = corpus("passages")
    training, held = split(len(rows), tmp_path / "run")
    found = {}
    for side in ("query", "positive"):
        texts = [row[side] for row in rows]
        file = tmp_path / f"{side}.jsonl"
        file.write_text("".join(json.dumps({"text": texts[i]}) + "\n" for i in held))
        ours = tk.embed(run=tmp_path / "run", data={"sources": {side: {"path": str(file)}}})
        found[side] = frozen(texts), np.array([row.values for row in ours])
    (queries, our_queries), (answers, our_answers) = found["query"], found["positive"]
    gram, across = queries[training].T @ queries[training], queries[training].T @ answers[training]
    linear = [np.linalg.solve(gram + weight * np.eye(len(gram)), across) for weight in (0.1, 1.0, 10.0)]
    reached = max(recall(queries[held] @ matrix, answers[held]) for matrix in [np.eye(len(gram)), *linear])
    assert recall(our_queries, our_answers) >= reached


def recall(queries: np.ndarray, passages: np.ndarray) -> float:
    """Share of the queries whose own passage is the nearest."""
    return float(np.mean((queries @ passages.T).argmax(1) == np.arange(len(queries))))


def test_rewards_rise(tmp_path: Path) -> None:
    first, last = trained("grpo.yaml", tmp_path / "run")
    assert last["reward"] > first["reward_high"]


def test_digits_are_read(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "examples/digits/make.py"], cwd=ROOT, env=environment, check=True)
    trained("digits/train.yaml", tmp_path / "run")
    rows = "runs/digits-data/test.jsonl"
    to = tmp_path / "answers.jsonl"
    command = [str(Path(sys.executable).with_name("tk")), "infer", "--run", str(tmp_path / "run"), "--input", rows]
    subprocess.run([*command, "--rewards.accuracy", "1", "--to", str(to)], cwd=ROOT, env=environment, check=True)
    rewards = [json.loads(line)["rewards"]["accuracy"] for line in to.read_text().splitlines()]
    assert len(rewards) >= 100
    assert float(np.mean(rewards)) >= 0.9
