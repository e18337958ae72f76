"""`embedding` trains on all passages of a step, however it is spread over micro-batches and processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

import tk
from tk.cli import main
from tk.contracts import Layout, Limit
from tk.errors import DataError
from tk.sample import Sample
from tk_conformance.methods import check_method
from tk_conformance.parity import Numbers, batches_of, check_same, examples_of, gradient, one_step, tiny_model
from tk_conformance.tiny import tiny_run
from tk_conformance.train_many import train_many
from tk_embedding.method import Embedding
from tk_embedding.options import EmbeddingOptions
from tk_embedding_losses.info_nce import InfoNce

ROWS = [("5 6 7", ("8 9",)), ("10", ("11 12 13 14", "15 16")), ("17 18", ("19 20 21", "22"))]


@pytest.fixture
def method() -> Embedding:
    return Embedding(EmbeddingOptions(), {"it": (1.0, InfoNce())})


@pytest.mark.parametrize("layout", [Layout(0), Layout(0, side="left"), Layout(0, packing=True)])
def test_it_is_the_mean_of_the_hidden_states_in_a_cross_entropy(method: Embedding, layout: Layout) -> None:
    model: Any = tiny_model("LlamaModel")
    examples = examples_of(method, [Sample(text=text, passages=passages) for text, passages in ROWS])
    (batch,) = batches_of(method, examples, layout, first=2)
    assert batch.weights == {"it": 3.0}
    found = one_step(method, {"policy": model}, [batch])
    model.zero_grad()

    def vector(text: str) -> torch.Tensor:
        ids = torch.tensor([[int(word) for word in text.split()]])
        return F.normalize(model(input_ids=ids).last_hidden_state[0].mean(0), dim=-1)

    queries = torch.stack([vector(text) for text, _ in ROWS])
    passages = torch.stack([vector(passage) for _, own in ROWS for passage in own])
    expected = F.cross_entropy(queries @ passages.T / 0.05, torch.tensor([0, 1, 3]))
    expected.backward()
    check_same(found, (expected.item(), gradient(model)))


def test_rows_without_a_passage_or_too_long_are_told(method: Embedding) -> None:
    with pytest.raises(DataError, match="^a:1: no passage"):
        method.encode([Sample(text="5", origin="a:1")], Numbers(), Limit())
    long = [Sample(text="5 6 7", passages=("8",), origin="a:1")]
    with pytest.raises(DataError, match="^a:1: 3 tokens, longer than data.max_length 2"):
        method.encode(long, Numbers(), Limit(2))
    assert method.encode(long, Numbers(), Limit(2, "drop")) == [[]]


def test_prefixes_stand_before_queries_and_passages() -> None:
    method = Embedding(EmbeddingOptions("1 ", "2 "), {"it": (1.0, InfoNce())})
    ((example,),) = method.encode([Sample(text="5", passages=("6", "7"))], Numbers(), Limit())
    assert example.values["ids"].tolist() == [1, 5, 2, 6, 2, 7]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    rows = [{"anchor": "ab" * i, "positive": "cd" * (9 - i), "negatives": ["ef" * i] * (i % 3)} for i in range(1, 9)]
    return tiny_run(tmp_path, rows, method="embedding", losses={"info-nce": {"dims": [8, 32]}})


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_it_trains_the_same_however_it_is_spread(config: dict[str, Any], tuner: str, tmp_path: Path) -> None:
    check_method({**config, "tuner": {"name": tuner}}, tmp_path, strategies=("ddp", "fsdp"))


def test_what_is_saved_is_a_plain_model(config: dict[str, Any], tmp_path: Path) -> None:
    result = tk.train({**config, "tuner": {"name": "full"}, "eval": {"hold_out": 3}, "output": str(tmp_path / "run")})
    assert 0 <= result.evals["accuracy"] <= 1
    plain = AutoModel.from_pretrained(tmp_path / "run" / "final")
    ids = torch.tensor([[5, 6, 7]])
    assert plain(input_ids=ids).last_hidden_state.shape == (1, 3, 32)
    (tmp_path / "texts.jsonl").write_text('{"text": "ab"}\n{"text": "abcdef"}\n')
    rows = tk.embed(run=tmp_path / "run", data=str(tmp_path / "texts.jsonl"))
    for text, row in zip(("ab", "abcdef"), rows, strict=True):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "final")
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        expected = F.normalize(plain(input_ids=ids).last_hidden_state[0].mean(0), dim=-1)
        torch.testing.assert_close(torch.tensor(row.values), expected, rtol=1e-4, atol=1e-5)
    untrained = tk.embed(model=config["model"], template="chatml", data=str(tmp_path / "texts.jsonl"))
    assert untrained[0].values != rows[0].values


def test_the_command_writes_the_vectors(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tk.train({**config, "output": str(tmp_path / "run")})
    (tmp_path / "texts.jsonl").write_text('{"text": "ab"}\n{"text": "abcdef"}\n')
    words = ["--run", tmp_path / "run", "--input", tmp_path / "texts.jsonl", "--to", tmp_path / "vectors.jsonl"]
    monkeypatch.setattr(sys, "argv", ["tk", "embed", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    found = [json.loads(line) for line in (tmp_path / "vectors.jsonl").read_text().splitlines()]
    expected = tk.embed(run=tmp_path / "run", data=str(tmp_path / "texts.jsonl"))
    assert [row["vector"] for row in found] == [pytest.approx(list(row.values), abs=1e-6) for row in expected]
    assert [row["origin"].rpartition(":")[2] for row in found] == ["1", "2"]


@pytest.mark.slow
def test_held_out_figures_are_of_all_rows_whatever_fits_into_a_forward(config: dict[str, Any], tmp_path: Path) -> None:
    held = [{"anchor": "ab" * i + "c", "positive": "ca" * i, "negatives": ["fe" * i] * (i % 2)} for i in range(1, 8)]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))

    def run(name: str, size: int) -> dict[str, Any]:
        evaluation = {"sources": {"held": {"path": str(tmp_path / "held.jsonl")}}, "batch_size": size}
        return {**config, "tuner": {"name": "full"}, "eval": evaluation, "output": str(tmp_path / name)}

    train_many([run("whole", 7), run("parts", 2)])
    train_many([run("spread", 2)], world=2)
    found = {n: json.loads((tmp_path / n / "run.json").read_text())["evals"] for n in ("whole", "parts", "spread")}
    for name in ("parts", "spread"):
        for when in ("first", "last"):
            assert found[name][when]["held"] == pytest.approx(found["whole"][when]["held"], rel=1e-5, abs=1e-5)
    figures = found["whole"]["last"]["held"]
    assert figures["rows"] == 7
    assert figures["loss_low"] < figures["loss"] < figures["loss_high"]
    vectors = {}
    for side in ("anchor", "positive", "negatives"):
        texts = [text for row in held for text in ([row[side]] if isinstance(row[side], str) else row[side])]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        rows = tk.embed(run=tmp_path / "whole", data=str(tmp_path / f"{side}.jsonl"))
        vectors[side] = torch.tensor([row.values for row in rows])
    cosines = vectors["anchor"] @ torch.cat([vectors["positive"], vectors["negatives"]]).T
    right = (cosines.argmax(1) == torch.arange(7)).float().mean()
    assert figures["accuracy"] == pytest.approx(float(right))
    assert figures["cosine"] == pytest.approx(float(cosines.diagonal().mean()), abs=1e-4)
