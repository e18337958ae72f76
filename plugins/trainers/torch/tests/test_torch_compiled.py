"""Training steps that are compiled: the same gradients, weights and files as without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

import tk
from tk.errors import UsageError
from tk_conformance.parity import tiny_model
from tk_conformance.tiny import tiny_checkpoint
from tk_torch.compiled import compile_blocks, uncompiled

Configured = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """What was compiled before is forgotten."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
def test_blocks_have_the_same_gradients_at_any_length_and_the_same_names() -> None:
    plain, model = tiny_model(num_hidden_layers=3), tiny_model(num_hidden_layers=3)
    names = list(model.state_dict())
    assert compile_blocks(model, "cpu") == 3
    assert list(model.state_dict()) == names == [name for name, _ in model.named_parameters()]
    for rows, tokens in ((2, 9), (3, 17), (4, 30), (2, 12)):
        ids = torch.randint(1, 90, (rows, tokens), generator=torch.Generator().manual_seed(tokens))
        mask = torch.ones_like(ids)
        mask[-1, -2:] = 0
        found = []
        for each in (model, plain):
            each.zero_grad()
            each(input_ids=ids, attention_mask=mask, use_cache=False).logits.logsumexp(-1).sum().backward()
            found.append([p.grad.clone() for p in each.parameters()])
        apart = [float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True)]
        assert 0 < max(apart) < 1e-5
    assert graphs() == 1
    with torch.no_grad(), uncompiled(model):
        whole = {"input_ids": torch.ones(1, 5, dtype=torch.long)}
        assert torch.equal(model(**whole).logits, plain(**whole).logits)
    assert graphs() == 1


def test_what_cannot_be_compiled_is_refused(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path / "run", train={"compile": True})
    with pytest.raises(
        UsageError, match=r"train\.compile needs 'compile', which strategy \(fsdp of .*\) does not support"
    ):
        tk.plan({**config, "strategy": "fsdp"})
    with pytest.raises(UsageError, match=r"train\.compile: the model has no blocks"):
        compile_blocks(torch.nn.Sequential(torch.nn.Embedding(3, 3), torch.nn.Linear(3, 3)), "cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler 'no-such-compiler'.*install one, name it in CXX"):
        tk.train(config)
    assert not (tmp_path / "run").exists()


ROWS = [
    {"prompt": f"{'How many? ' * (i % 5)}{i}?", "chosen": f"It is {i * i}{'.' * (i % 7)}", "rejected": "None."}
    for i in range(24)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [("sft", {}), ("dpo", {}), ("sft", {"gradient_checkpointing": True}), ("sft", {"neftune_alpha": 5.0})],
)
def test_a_compiled_run_comes_to_the_same(
    configured: Configured, tmp_path: Path, method: str, more: dict[str, Any]
) -> None:
    rows = ROWS if method == "dpo" else [{"prompt": r["prompt"], "completion": r["chosen"]} for r in ROWS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sections = {
        "data": str(tmp_path / "rows.jsonl"),
        "method": method,
        "tuner": {"name": "lora", "rank": 2},
        "optim": {"name": "sgd", "lr": 1e-2},
        "eval": {"hold_out": 4},
    }
    model = {"name": str(tiny_checkpoint(tmp_path / "model", vocab=300))}
    results = [
        tk.train(configured(tmp_path / name, **sections, model=model, train={**more, "compile": name == "compiled"}))
        for name in ("plain", "compiled")
    ]
    plain, compiled = (load_file(result.output / "final" / "adapter_model.safetensors") for result in results)
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        assert float((compiled[name] - value).norm()) <= 1e-5 * float(value.norm()), name
    assert results[0].first == results[1].first
    assert results[0].evals["loss"] == pytest.approx(results[1].evals["loss"], rel=1e-5)
    assert 0 < graphs() <= 12
    timings = json.loads((tmp_path / "compiled/run.json").read_text())["timings"]
    assert timings["first_step"] > (timings["steps"] - timings["first_step"]) / 5


@pytest.mark.slow
def test_a_compiled_run_is_resumed(configured: Configured, tmp_path: Path) -> None:
    plain = {"tuner": {"name": "lora", "rank": 2}, "optim": {"name": "sgd", "lr": 1e-2}}
    model = {"name": str(tiny_checkpoint(tmp_path / "model", vocab=300))}
    whole = tk.train(configured(tmp_path / "whole", **plain, model=model))
    config = configured(
        tmp_path / "run", **plain, model=model, train={"compile": True}, callbacks={"signal-at": {"step": 2}}
    )
    assert tk.train(config).steps == 3
    assert tk.train({**config, "train": {**config["train"], "resume": True}}).steps == 6
    names = [result / "final" / "adapter_model.safetensors" for result in (whole.output, tmp_path / "run")]
    expected, found = map(load_file, names)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 1e-5 * float(value.norm()), name
