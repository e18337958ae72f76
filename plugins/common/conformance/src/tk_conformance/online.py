"""Short runs of online methods: a tiny model, prompts, and a reward that it can learn in seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tk_conformance.tiny import tiny_checkpoint

PARTS = Path(__file__).with_name("online_parts.py")
"""The plugin file that these runs take their reward from."""


def online_inputs(folder: Path, prompts: int = 48) -> Path:
    """The folder with a tiny model (`model`) and prompts (`prompts.jsonl`)."""
    tiny_checkpoint(folder / "model", "llama", vocab=300, hidden=64)
    rows = [{"prompt": f"Say {i}"} for i in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def online_config(inputs: Path, output: Path, method: str | Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """A run of four steps of four prompts with eight tokens an answer, two micro-batches each; `sections` go over it."""
    train = {"steps": 4, "batch_size": 4, "micro_batch_size": 2, **sections.pop("train", {})}
    return {
        "model": str(inputs / "model"),
        "data": str(inputs / "prompts.jsonl"),
        "template": "chatml",
        "method": method,
        "rewards": {"letters": 1.0},
        "sampling": {"max_tokens": 8},
        "tuner": {"name": "full"},
        "optim": {"name": "adamw", "lr": 5e-3},
        "train": train,
        "report": {"html": False, "plot": False},
        "plugins": {"files": [str(PARTS)]},
        "output": str(output),
        **sections,
    }
