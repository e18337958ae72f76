"""Log-probs of the reference computed once train the same, and are kept with the run that they belong to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tk
from tk.errors import TkError
from tk_conformance.tiny import tiny_checkpoint, tiny_run
from tk_conformance.train_many import train_many

STEPS = 3


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Evaluated on rows that it does not train on, over two passes."""
    rows = [
        {"prompt": "ab" * (30 if i % 2 else i), "chosen": "cd" * (9 - i), "rejected": "ef" * i} for i in range(1, 9)
    ]
    made = tiny_run(tmp_path, rows, method="dpo", losses={"sigmoid": 0.8, "bco-pair": 0.2, "sft": 1.0})
    return {
        **made,
        "optim": {"name": "sgd", "lr": 0.05},
        "eval": {"hold_out": 3, "every": 2},
        "train": {**made["train"], "steps": STEPS, "batch_size": 4, "micro_batch_size": 2, "save_every": 2},
        "report": {"html": False, "plot": False},
    }


def variant(config: Mapping[str, Any], folder: Path, *, once: bool, **changes: Any) -> dict[str, Any]:
    method = {"name": "dpo", "precompute_reference": once, **changes.pop("method", {})}
    return {**config, "method": method, "output": {"dir": str(folder / f"once-{once}")}, **changes}


def figures(run: Path) -> list[dict[str, float]]:
    """What each step and each evaluation told, besides times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {
            n: v
            for n, v in line.items()
            if isinstance(v, float) and "second" not in n and not n.endswith(("_low", "_high"))
        }
        for line in lines
    ]


def check_same(folder: Path) -> None:
    often, once = figures(folder / "once-False"), figures(folder / "once-True")
    assert len(often) == len(once) >= STEPS + 2
    for a, b in zip(often, once, strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-5)
    assert (folder / "once-True/precomputed/train.safetensors").is_file()
    assert not (folder / "once-False/precomputed").exists()


CASES: Mapping[str, Mapping[str, Any]] = {
    "adapter": {"tuner": {"name": "lora", "rank": 2}},
    "copy": {"tuner": {"name": "full"}},
    "packed": {"tuner": {"name": "full"}, "data": {"packing": True, "max_length": 400}},
    "other": {"tuner": {"name": "lora", "rank": 2}, "method": {"reference": "other"}},
}


@pytest.mark.slow
@pytest.mark.parametrize(("world", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
def test_training_is_the_same(config: dict[str, Any], tmp_path: Path, world: int, strategy: str) -> None:
    other = tiny_checkpoint(tmp_path / "other", "llama", vocab=300, seed=7)
    configs = []
    for name, changes in CASES.items():
        changes = dict(changes)
        if "reference" in changes.get("method", {}):
            changes["method"] = {"reference": str(other)}
        data = {"data": {"sources": {"pairs": {"path": config["data"]}}, **changes.pop("data", {})}}
        for once in (False, True):
            configs.append(variant(config, tmp_path / name, once=once, strategy=strategy, **data, **changes))
    train_many(configs, world=world)
    for name in CASES:
        check_same(tmp_path / name)


def test_a_run_goes_on_with_what_it_has_kept(config: dict[str, Any], tmp_path: Path) -> None:
    full = {"tuner": {"name": "full"}}
    whole = variant(config, tmp_path / "whole", once=True, **full)
    tk.train(whole)
    cut = variant(config, tmp_path / "cut", once=True, **full)
    tk.train(cut)
    shutil.rmtree(Path(cut["output"]["dir"]) / f"checkpoints/step-{STEPS:08d}")
    tk.train({**cut, "train": {**cut["train"], "resume": True}})
    ends = [load_file(Path(c["output"]["dir"]) / "final/model.safetensors") for c in (whole, cut)]
    assert all(bool((ends[0][n] == ends[1][n]).all()) for n in ends[0])


def test_what_is_kept_is_not_used_for_other_rows(config: dict[str, Any], tmp_path: Path) -> None:
    run = variant(config, tmp_path, once=True)
    tk.train(run)
    again = {**run, "train": {**run["train"], "resume": True}}
    rows = Path(run["data"])
    before = rows.read_text()
    rows.write_text(before.replace("ab", "ba"))  # as many tokens
    with pytest.raises(TkError, match=r"train.safetensors is of other rows than the train data holds now"):
        tk.train(again)
    rows.write_text(before)
    (Path(run["output"]["dir"]) / "precomputed/train.safetensors").unlink()
    with pytest.raises(TkError, match=r"precomputed is not whole: train.safetensors is missing. Begin the run anew"):
        tk.train(again)
