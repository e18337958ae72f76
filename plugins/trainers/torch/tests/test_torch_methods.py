"""Methods beyond supervised fine-tuning, by name through tk.train, against a plain float64 loop over the same rows.

One and two processes, both strategies, with and without accumulation and dropout, unequal micro-batches and fillers.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tk_conformance.tiny import tiny_checkpoint
from tk_conformance.train_many import train_many

HERE = Path(__file__).parent


def _sibling(name: str) -> ModuleType:
    """A module beside this file: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"tk_torch_tests_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain_loop = _sibling("plain_loop")
STEPS, LR, SEED = 4, 1e-3, 3
METHODS = ("two-terms", "in-batch", "actor-critic", "shared-critic")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for dropout in (0.0, 0.2):
        for head in ("lm", "value"):
            tiny_checkpoint(folder / f"{head}-{dropout}", "llama", vocab=300, head=head, attention_dropout=dropout)
        # a bias that starts at 0 would be compared relative to nothing but its own few updates
        weights = load_file(folder / f"value-{dropout}/model.safetensors")
        weights["score.bias"] += 0.5
        save_file(weights, folder / f"value-{dropout}/model.safetensors", metadata={"format": "pt"})
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i}? " + "why " * (i % 5)},
                {"role": "assistant", "content": f"{i * i} " + "so " * (i * 7 % 4)},
            ]
        }
        for i in range(14)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _config(
    folder: Path, out: Path, method: str, dropout: float, strategy: str, micro: int, batch: int
) -> dict[str, Any]:
    critic = {"critic": str(folder / f"value-{dropout}")} if method == "actor-critic" else {}
    return {
        "model": str(folder / f"lm-{dropout}"),
        "data": str(folder / "rows.jsonl"),
        "method": {"name": method, "dump": str(out / "dump"), **critic},
        "tuner": "full",
        "optim": {"name": "adamw", "lr": LR},
        "scheduler": {"name": "constant"},
        "strategy": strategy,
        "train": {"steps": STEPS, "batch_size": batch, "micro_batch_size": micro, "seed": SEED},
        "callbacks": {"witness": {"dump": str(out / "dump")}},
        "plugins": {"files": [str(HERE / "synthetic_methods.py")]},
        "report": {"html": False, "plot": False},
        "output": str(out / "run"),
    }


@pytest.mark.parametrize(
    ("world", "strategy", "micro", "batch"),
    [
        pytest.param(1, "ddp", 8, 7, id="one", marks=pytest.mark.slow),
        pytest.param(1, "ddp", 2, 7, id="one-accumulated", marks=pytest.mark.slow),
        pytest.param(2, "ddp", 2, 7, id="two-ddp", marks=pytest.mark.slow),
        pytest.param(2, "fsdp", 2, 7, id="two-fsdp", marks=pytest.mark.slow),
        pytest.param(2, "ddp", 1, 3, id="two-with-filler", marks=pytest.mark.slow),
    ],
)
def test_training_equals_a_plain_float64_loop(
    checkpoints: Path, tmp_path: Path, world: int, strategy: str, micro: int, batch: int
) -> None:
    cases = [(method, dropout) for method in METHODS for dropout in (0.0, 0.2)]
    outs = {case: tmp_path / f"{case[0]}-{case[1]}" for case in cases}
    configs = [_config(checkpoints, outs[case], *case, strategy, micro, batch) for case in cases]
    train_many(configs, world=world)
    for (method, dropout), out in outs.items():
        ranks = plain_loop.read(out / "dump", world)
        _assert_spread(out, ranks, world, strategy)
        nets = plain_loop.models(method, checkpoints / f"lm-{dropout}", checkpoints / f"value-{dropout}")
        expected, losses = plain_loop.train(method, nets, ranks, STEPS, lr=LR, seed=SEED, max_norm=1.0)
        log = [json.loads(line) for line in (out / "run/log.jsonl").read_text().splitlines()]
        # the terms of a loss may cancel: its noise is that of their size, about 5
        assert [line["loss"] for line in log] == pytest.approx(losses, rel=1e-5, abs=3e-5), (method, dropout)
        trained = load_file(out / f"run/checkpoints/step-{STEPS:08d}/weights.safetensors")
        found = {name.partition("_by_role.")[2]: value for name, value in trained.items()}
        assert set(found) == set(expected)
        worst = max((float((found[n].double() - e).norm() / e.norm()), n) for n, e in expected.items())
        assert worst[0] < 1e-5, (method, dropout, worst)


def _assert_spread(out: Path, ranks: list[list[Any]], world: int, strategy: str) -> None:
    """The processes were there, saw rows of their own, and under fsdp held shards."""
    for rank in range(world):
        witness = json.loads((out / f"dump/witness{rank}.json").read_text())
        assert witness["world"] == world
        assert (witness["sharded"] > 0) == (strategy == "fsdp" and world > 1)
    seen = [
        {tuple(row.tolist()) for b in batches if not b.filler for row in b.inputs["input_ids"]} for batches in ranks
    ]
    each = len(ranks[0]) // STEPS
    first = [
        {tuple(row[row > 2].tolist()) for b in batches[:each] if not b.filler for row in b.inputs["input_ids"]}
        for batches in ranks
    ]
    assert all(seen)
    assert world == 1 or not first[0] & first[1]


def test_dropout_changes_the_outcome(checkpoints: Path) -> None:
    torch.manual_seed(0)
    (net,) = plain_loop.models("two-terms", checkpoints / "lm-0.2", checkpoints).values()
    ids = torch.arange(3, 20)[None]
    assert not torch.equal(net(input_ids=ids).logits, net(input_ids=ids).logits)
