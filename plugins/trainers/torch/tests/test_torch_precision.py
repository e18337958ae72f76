"""What a run computes in and what its weights are kept in, as on a device with bf16: checkpoints of half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tk
from tk import setup
from tk_conformance.online import PARTS
from tk_conformance.tiny import tiny_checkpoint
from tk_torch import assemble
from tk_torch.precision import computed_in, keep_updates, loaded_in

HALF = {"data": {"max_length": 64}, "train": {"batch_size": 4, "micro_batch_size": 2, "steps": 3, "precision": "bf16"}}


def plan(model: dict[str, Any] | None = None, **train: Any) -> Any:
    return setup.plan(
        setup.Given(values=[{"model": {"name": "x/y", "family": "auto", **(model or {})}, "train": train}])
    )


def test_the_computation_is_that_of_the_device_unless_it_is_named() -> None:
    assert computed_in(plan(), "cpu") == "fp32"
    assert computed_in(plan(precision="fp16"), "cpu") == "fp16"
    assert loaded_in(plan(), "cpu") == "fp32"
    assert loaded_in(plan(precision="bf16"), "cpu") == "auto"
    assert loaded_in(plan({"dtype": "fp16"}), "cpu") == "fp16"


@pytest.mark.parametrize(("dtype", "kept"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_what_is_trained_is_kept_in_single_precision(dtype: str, kept: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    module[0].requires_grad_(False)
    keep_updates(plan({"dtype": dtype}), module)
    assert {p.dtype for p in module[0].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in module[1].parameters()} == {kept}


RUNS: dict[str, dict[str, Any]] = {
    "lora": {"tuner": {"name": "lora", "rank": 2}},
    "full": {"tuner": {"name": "full"}},
    "parts": {"tuner": {"name": "full", "freeze": ["embed_tokens"]}},
    "a new head": {"tuner": {"name": "lora", "rank": 2}, "method": {"name": "classification", "labels": ["a", "b"]}},
    "answers": {
        "tuner": {"name": "full"},
        "method": {"name": "grpo", "kl": 0.1},
        "rewards": {"letters": {}},
        "plugins": {"files": [str(PARTS)]},
        "sampling": {"n": 2, "max_tokens": 4},
        "losses": {},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_of_half_precision_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen weights stay as they were; those that are trained are saved with all that was added to them."""
    monkeypatch.setattr(assemble, "loaded_in", lambda plan, device: "bf16")  # as the checkpoint's own on a device
    model = tiny_checkpoint(tmp_path / "model", "llama", vocab=300)
    rows = [{"prompt": f"{i}?", "completion": f"It is {i}."} for i in range(8)]
    if name == "a new head":
        rows = [{"text": f"{i}?", "label": "ab"[i % 2]} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"sources": {"rows": {"path": str(tmp_path / "rows.jsonl")}}, "max_length": 64}
    config = {**HALF, "model": str(model), "template": "chatml", "data": data, "optim": {"name": "adamw", "lr": 1e-4}}
    result = tk.train(
        {**config, **RUNS[name], "output": str(tmp_path / "run"), "report": {"html": False, "plot": False}}
    )
    assert result.steps == 3
    (file,) = (tmp_path / "run" / "final").glob("*.safetensors")
    saved = load_file(file)
    trained = [value for key, value in saved.items() if name != "parts" or "embed_tokens" not in key]
    assert {value.dtype for value in trained} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in trained)
