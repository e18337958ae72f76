"""Whole runs by name through tk.train: every stage on 1, 2 and 4 processes gives the losses and weights of one process under
`ddp`, and is really in parts; as do the strategies beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tk
from tk_conformance.tiny import tiny_checkpoint
from tk_conformance.train_many import train_many
from tk_deepspeed.document import PRESETS

HERE = Path(__file__).parent
LONG = 1700
"""Seconds that a test may take where the machine has other things to do; its kernel is compiled once besides."""
STAGES: dict[str, Any] = {name: {"name": "deepspeed", "preset": name} for name in PRESETS}
STRATEGIES = STAGES | {"ddp": "ddp", "fsdp": "fsdp"}
CASES: dict[str, dict[str, Any]] = {
    "sft-lora": {"tuner": {"name": "lora", "rank": 2}},
    "sft-full": {"tuner": "full"},
    "sft-packed": {"tuner": "full", "data": {"packing": True, "max_length": 96}},
    "dpo-lora": {"method": "dpo", "tuner": {"name": "lora", "rank": 2}},
    "dpo-full": {"method": "dpo", "tuner": "full"},
    # the reference's module leaves the wrapped one before the first step
    "dpo-precomputed": {"method": {"name": "dpo", "precompute_reference": True}, "tuner": "full"},
    # forwards without a backward between the steps, and forwards within a backward
    "sft-recomputed": {"tuner": "full", "train": {"gradient_checkpointing": True}, "eval": {"hold_out": 4, "every": 1}},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300)
    rows = [
        {
            "prompt": f"{i}? " + "why " * (i % 5),
            "chosen": f"{i * i} " + "so " * (i % 4),
            "rejected": f"No. {i}" * (i % 3 + 1),
        }
        for i in range(24)
    ]
    for name, columns in (("pairs", {"chosen": "chosen", "rejected": "rejected"}), ("rows", {"chosen": "completion"})):
        named = [{"prompt": row["prompt"], **{new: row[old] for old, new in columns.items()}} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    return folder


def config(inputs: Path, output: Path, case: str, strategy: Any, **sections: Any) -> dict[str, Any]:
    """A short run. Rows of a forward are one, so that each process accumulates and the last windows have fillers."""
    given = CASES[case] | sections
    rows = inputs / ("pairs.jsonl" if case.startswith("dpo") else "rows.jsonl")
    return {
        "model": str(inputs / "model"),
        "template": "chatml",
        "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "strategy": strategy,
        "report": {"html": False, "plot": False},
        "plugins": {"files": [str(HERE / "witness.py")]},
        "callbacks": {"witness": {"dump": str(output)}},
        "output": str(output / "run"),
        **given,
        "train": {"steps": 4, "batch_size": 6, "micro_batch_size": 1, "save_every": 2, **given.get("train", {})},
        "data": {"sources": {"rows": {"path": str(rows)}}, **given.get("data", {})},
    }


Alone = Callable[[str], Path]


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """A case on one process under ddp."""
    folder = tmp_path_factory.mktemp("alone")

    def trained(case: str) -> Path:
        if not (folder / case).exists():
            tk.train(config(inputs, folder / case, case, "ddp"))
        return folder / case / "run"

    return trained


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_stage_gives_what_one_process_gives(
    processes: Mapping[str, str],
    inputs: Path,
    alone: Alone,
    tmp_path: Path,
    world: int,
) -> None:
    runs = {(name, case): tmp_path / name / case for name in STRATEGIES for case in CASES}
    made = [config(inputs, out, case, STRATEGIES[name]) for (name, case), out in runs.items()]
    train_many(made, world=world, timeout=LONG, environment=processes)
    for (name, case), out in runs.items():
        check_spread(out, name, world)
        expected, found = (course(folder) for folder in (alone(case), out / "run"))
        assert found == pytest.approx(expected, rel=1e-5), (name, case)
        worst = max(distances(saved(out / "run"), saved(alone(case))).items(), key=lambda item: item[1])
        assert worst[1] <= 1e-5, (name, case, worst)
        finals = [{p.name for p in (folder / "final").iterdir()} for folder in (alone(case), out / "run")]
        assert finals[0] == finals[1]


def check_spread(out: Path, name: str, world: int) -> None:
    """What each rank told after the last step."""
    for rank in range(world):
        told = json.loads((out / f"witness{rank}.json").read_text())
        assert told["world"] == world
        assert (told["cut"] > 0) == (name == "fsdp" and world > 1)
        if name in STAGES:
            check_stage(told, int(name[4]), world, offloaded=name.endswith("offload"))


def check_stage(told: Mapping[str, Any], stage: int, world: int, *, offloaded: bool) -> None:
    assert (told["stage"], told["on_cpu"], told["gradients"]) == (stage, offloaded, 0)
    share = world if stage else 1
    assert told["trained"] / share <= told["updated"] <= told["trained"] / share * 1.05 + 64, told
    if stage == 3:
        assert told["held"] <= told["parameters"] / world * 1.05 + 64, told
    else:
        assert told["held"] == told["parameters"]


def course(run: Path) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line[name] for line in lines if line["kind"] == "train" for name in ("loss", "grad_norm")]


def saved(run: Path) -> dict[str, Tensor]:
    """Adapters or weights as they were written at the end."""
    (path,) = (run / "final").glob("*.safetensors")
    return load_file(path)


def distances(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == expected.keys()
    return {
        name: float((found[name].double() - value.double()).norm() / value.double().norm().clamp_min(1e-30))
        for name, value in expected.items()
    }


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("case", ["sft-lora", "dpo-full"])
def test_a_run_goes_on_bit_by_bit_on_as_many_processes_and_closely_on_others(
    processes: Mapping[str, str], inputs: Path, alone: Alone, tmp_path: Path, case: str
) -> None:
    names = ("zero1", "zero2", "zero3", "zero3_offload", "ddp", "fsdp")
    whole = [config(inputs, tmp_path / "whole" / n, case, STRATEGIES[n], callbacks={}) for n in names]
    train_many(whole, world=2, timeout=LONG, environment=processes)
    cut = {world: [_cut(tmp_path, inputs, n, case, world) for n in names] for world in (1, 2, 4)}
    for world, configs in cut.items():
        train_many(configs, world=world, timeout=LONG, environment=processes)
    for name in names:
        ends = {world: saved(tmp_path / f"cut{world}" / name / "run") for world in cut}
        expected = saved(tmp_path / "whole" / name / "run")
        assert all(torch.equal(ends[2][key], value) for key, value in expected.items()), name
        for world in (1, 4):
            assert max(distances(ends[world], saved(alone(case))).values()) <= 1e-5, (name, world)


def _cut(folder: Path, inputs: Path, name: str, case: str, world: int) -> dict[str, Any]:
    """The config of a run that goes on, on so many processes, from the middle of one on two."""
    own = folder / f"cut{world}" / name
    shutil.copytree(folder / "whole" / name / "run", own / "run")
    shutil.rmtree(own / "run/checkpoints/step-00000004")
    shutil.rmtree(own / "run/final")
    return config(inputs, own, case, STRATEGIES[name], callbacks={}, train={"resume": True})
