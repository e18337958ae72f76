"""Classification and regression: losses and gradients equal transformers' own, labels are checked, runs save plainly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tk
from tk.contracts import Layout, Limit, LoadedModel
from tk.errors import DataError, UsageError
from tk.sample import Sample
from tk_classification.method import Classification, MultiLabel, Regression
from tk_classification.options import ClassOptions, RegressionOptions
from tk_conformance.losses import check_loss
from tk_conformance.methods import check_method
from tk_conformance.parity import (
    LAYOUTS,
    Numbers,
    batches_of,
    check_same,
    examples_of,
    gradient,
    one_step,
    tiny_model,
)
from tk_conformance.tiny import tiny_run
from tk_score_losses.labels import BinaryCrossEntropy, CrossEntropy, MeanSquared
from tk_tensor.scored import build_scored

CLASSES = ClassOptions(("red", "green", "blue"))
TEXTS = ["5 6 7 8", "9 10", "11 12 13 14 15 16", "17 18 19"]
PROBLEMS: dict[str, tuple[Any, list[Any]]] = {
    "single_label_classification": (
        Classification(CLASSES, {"it": (1.0, CrossEntropy())}),
        ["red", 2, "green", 1],
    ),
    "multi_label_classification": (
        MultiLabel(CLASSES, {"it": (1.0, BinaryCrossEntropy())}),
        [["red", "blue"], [], [1], [0, 1, 2]],
    ),
    "regression": (
        Regression(RegressionOptions(("a", "b", "c")), {"it": (1.0, MeanSquared())}),
        [[1.0, 2.0, 0.5], [0, 0, 1], [-1, 3, 2], [0.1, 0.2, 0.3]],
    ),
}


CLASSES_OF = {"llama": "LlamaForSequenceClassification", "bert": "BertForSequenceClassification"}


def model_of(architecture: str, problem: str) -> Any:
    return tiny_model(CLASSES_OF[architecture], num_labels=3, problem_type=problem, pad_token_id=0).eval()


@pytest.mark.parametrize("side", ["right", "left", "packed"])
@pytest.mark.parametrize("architecture", ["llama", "bert"])
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_loss_and_gradients_equal_transformers(problem: str, architecture: str, side: str) -> None:
    method, labels = PROBLEMS[problem]
    if architecture == "bert" and side != "right":
        pytest.skip("an encoder scores whole rows that begin at the left")
    model = model_of(architecture, problem)
    samples = [Sample(text=text, label=label) for text, label in zip(TEXTS, labels, strict=True)]
    examples = examples_of(method, samples)
    found = one_step(method, {"policy": model}, batches_of(method, examples, LAYOUTS[side]))
    model.zero_grad()
    plain = method.collate([[e] for e in examples], Layout(0))
    inputs = {name: plain.inputs[name] for name in ("input_ids", "attention_mask")}
    target = plain.fields["labels"] if problem != "multi_label_classification" else plain.fields["labels"].float()
    expected = model(**inputs, labels=target).loss
    expected.backward()
    check_same(found, (expected.item(), gradient(model)))


def test_the_last_token_is_the_one_that_transformers_takes() -> None:
    """Also where a sequence ends with the token that pads."""
    model = model_of("llama", "single_label_classification")
    method, _ = PROBLEMS["single_label_classification"]
    samples = [Sample(text="5 6 7 0", label=0), Sample(text="8 9", label=1)]
    (batch,) = batches_of(method, examples_of(method, samples), Layout(0))
    scored = build_scored({"policy": LoadedModel(model, None, "")}, method.roles(), None)  # type: ignore[arg-type]
    scores = scored(batch.inputs, batch.fields, method.passes(batch))["policy"]["score"]
    plain = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(scores, model(**plain).logits)


@pytest.mark.parametrize(
    ("problem", "label", "message"),
    [
        ("single_label_classification", None, "no label"),
        (
            "single_label_classification",
            3,
            "label 3 is no class: give a name or a number from 0 to 2 .red, green, blue",
        ),
        ("single_label_classification", "rde", "label 'rde' is no class"),
        ("single_label_classification", True, "label True is no class"),
        ("multi_label_classification", "red", "label must be a list of classes"),
        ("regression", [1, 2], "label has 2 numbers, and method.labels names 3"),
        ("regression", [1, 2, float("nan")], "label must be a number, or a list of numbers"),
    ],
)
def test_bad_labels_are_told_with_their_row(problem: str, label: Any, message: str) -> None:
    method, _ = PROBLEMS[problem]
    with pytest.raises(DataError, match=f"^a.jsonl:3: {message}"):
        method.encode([Sample(text="5 6", label=label, origin="a.jsonl:3")], Numbers(), Limit())


@pytest.mark.parametrize(
    ("problem", "labels", "told"),
    [
        ("single_label_classification", ["red", 0], "all 2 rows to train on have the label 'red'"),
        ("single_label_classification", ["red", "blue"], ["no row to train on has the label green"]),
        ("single_label_classification", ["red", "blue", "green"], []),
        ("multi_label_classification", [["red"], [0]], "all 2 rows to train on have the same labels"),
        ("multi_label_classification", [["red"], []], ["no row to train on has the label green, blue"]),
    ],
)
def test_labels_that_teach_nothing_are_told(problem: str, labels: list[Any], told: list[str] | str) -> None:
    method: Any = PROBLEMS[problem][0]
    samples = [Sample(text="5 6", label=label) for label in labels]
    examples = [example for found in method.encode(samples, Numbers(), Limit()) for example in found]
    if isinstance(told, list):
        assert method.examine(examples) == told
        return
    with pytest.raises(DataError, match=f"^data: {told}"):
        method.examine(examples)


def test_long_texts_are_cut_as_asked() -> None:
    method, _ = PROBLEMS["single_label_classification"]

    def ids(truncation: Any) -> list[list[int]]:
        (found,) = method.encode([Sample(text=TEXTS[2], label=0)], Numbers(), Limit(4, truncation))
        return [example.values["ids"].tolist() for example in found]

    assert ids("left") == [[13, 14, 15, 16]]
    assert ids("right") == [[11, 12, 13, 14]]
    assert ids("drop") == []
    with pytest.raises(DataError, match="6 tokens, longer than data.max_length 4"):
        ids("error")
    with pytest.raises(UsageError, match="not split"):
        ids("split")


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy(), MeanSquared()])
def test_the_losses_hold_what_is_asked_of_every_loss(loss: Any) -> None:
    single = isinstance(loss, CrossEntropy)
    labels = torch.tensor([0, 2, 1, 1]) if single else torch.tensor([[0.0, 1.0, 1.0]] * 4, dtype=torch.float64)
    check_loss(loss, {"score": torch.randn(4, 3, dtype=torch.float64)}, {"labels": labels})


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    rows = [{"text": "ab" * i, "label": ["even", "odd"][i % 2]} for i in range(1, 9)]
    return tiny_run(tmp_path, rows, method={"name": "classification", "labels": ["even", "odd"]})


def test_a_run_on_one_class_does_not_begin(config: dict[str, Any], tmp_path: Path) -> None:
    Path(config["data"]).write_text(json.dumps({"text": "ab", "label": "even"}) + "\n")
    with pytest.raises(DataError, match="all 1 rows to train on have the label 'even'"):
        tk.train({**config, "output": {"dir": str(tmp_path / "run")}})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_it_trains_the_same_however_it_is_spread(config: dict[str, Any], tuner: str, tmp_path: Path) -> None:
    check_method({**config, "tuner": {"name": tuner}}, tmp_path, strategies=("ddp", "fsdp"))


OTHERS: dict[str, tuple[list[Any], Any]] = {
    "multi-label": ([[], ["even"], ["odd"], ["even", "odd"]], "multi_label_classification"),
    "regression": ([[0.0, 1.0], [1.0, 0.5], [-1.0, 2.0], [0.3, 0.1]], "regression"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tuner"), [("multi-label", "lora"), ("regression", "full")])
def test_the_other_labels_train_the_same_and_are_saved_plainly(name: str, tuner: str, tmp_path: Path) -> None:
    labels, problem = OTHERS[name]
    rows = [{"text": "ab" * i, "label": labels[i % 4]} for i in range(1, 9)]
    config = tiny_run(tmp_path, rows, method={"name": name, "labels": ["even", "odd"]}, tuner={"name": tuner})
    check_method(config, tmp_path, strategies=("ddp", "fsdp"))
    plain = AutoModelForSequenceClassification.from_pretrained(
        tk.export(run=tmp_path / "whole", to=tmp_path / "merged")
    )
    assert plain.config.problem_type == problem
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    words = [
        "infer",
        "--run",
        tmp_path / "whole",
        "--input",
        tmp_path / "rows.jsonl",
        "--to",
        tmp_path / "scores.jsonl",
    ]
    done = subprocess.run([sys.executable, "-m", "tk", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row, line in zip(rows, (tmp_path / "scores.jsonl").read_text().splitlines(), strict=True):
        logits = plain(input_ids=torch.tensor([tokenizer(row["text"])["input_ids"]])).logits[0].tolist()
        assert list(json.loads(line)["scores"].values()) == pytest.approx(logits, abs=1e-4)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_what_is_saved_is_a_plain_sequence_classifier(config: dict[str, Any], tuner: str, tmp_path: Path) -> None:
    result = tk.train({**config, "tuner": {"name": tuner}, "eval": {"hold_out": 2}, "output": str(tmp_path / "run")})
    assert result.evals["accuracy_low"] <= result.evals["accuracy"] <= result.evals["accuracy_high"]
    plain = AutoModelForSequenceClassification.from_pretrained(tk.export(run=tmp_path / "run", to=tmp_path / "merged"))
    assert plain.config.id2label == {0: "even", 1: "odd"}
    assert plain.config.problem_type == "single_label_classification"
    rows = tk.score(run=tmp_path / "run", data=str(tmp_path / "rows.jsonl"))
    assert len(rows) == 8
    assert all(row.label == max(row.scores, key=row.scores.__getitem__) for row in rows)
    texts = [json.loads(line)["text"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for text, row in zip(texts, rows, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        torch.testing.assert_close(plain(input_ids=ids).logits[0], torch.tensor(row.values), rtol=1e-4, atol=1e-5)
