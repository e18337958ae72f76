"""Both methods train the same whatever the accumulation and the number of processes."""

import json

import pytest

from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_checkpoint


@pytest.fixture
def config(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "ab" * i}, {"role": "assistant", "content": "cd" * (9 - i)}]}
        for i in range(1, 9)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": "xyz" * i}) + "\n" for i in range(1, 9)))
    return {
        "model": str(tiny_checkpoint(tmp_path / "base", vocab=300)),
        "template": "chatml",
        "tuner": {"name": "full"},
        "optim": {"name": "sgd", "lr": 1e-3},
        "train": {"batch_size": 8, "steps": 3},
        "report": {"html": False, "plot": False},
    }


def test_sft(config, tmp_path):
    check_method({**config, "data": str(tmp_path / "chat.jsonl")}, tmp_path, strategies=("ddp", "fsdp"))


def test_pt(config, tmp_path):
    check_method({**config, "method": "pt", "data": str(tmp_path / "text.jsonl")}, tmp_path)
