"""What tests of whole runs share: a tiny checkpoint with rows, and the config of a run on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tk_conformance.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300, attention_dropout=0.1)
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"It is {i * i}."}]}
        for i in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def configured(inputs: Path) -> Callable[..., dict[str, Any]]:
    """The config of a run into a folder, with sections of one's own."""

    def config(output: Path, **sections: Any) -> dict[str, Any]:
        train = {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "save_every": 2, **sections.pop("train", {})}
        return {
            "model": str(inputs / "model"),
            "data": str(inputs / "rows.jsonl"),
            "tuner": {"name": "lora", "rank": 2, "dropout": 0.1},
            "optim": {"name": "adamw", "lr": 1e-2},
            "train": train,
            "report": {"html": False, "plot": False},
            "plugins": {"files": [str(Path(__file__).parent / "run_callbacks.py")]},
            "output": str(output),
            **sections,
        }

    return config
