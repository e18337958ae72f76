"""`dapo` draws further prompts in the place of those that teach nothing, each prompt once, and goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tk
from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_checkpoint

HERE = Path(__file__).parent
ROWS = 48


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "model", "llama", vocab=300, hidden=64)
    rows = [{"prompt": f"Say {i}"} for i in range(ROWS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config_of(inputs: Path, output: Path, steps: int, **sections: Any) -> dict[str, Any]:
    return {
        "model": str(inputs / "model"),
        "data": str(inputs / "prompts.jsonl"),
        "template": "chatml",
        "method": "dapo",
        "rewards": {"picky": 1.0},
        "sampling": {"max_tokens": 8},
        "tuner": {"name": "full"},
        "optim": {"name": "adamw", "lr": 5e-3},
        "train": {"steps": steps, "batch_size": 4, "micro_batch_size": 2},
        "report": {"html": False, "plot": False},
        "plugins": {"files": [str(HERE / "picky.py")]},
        "output": str(output),
        **sections,
    }


def samples(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def test_a_step_is_filled_with_prompts_that_teach(inputs: Path, tmp_path: Path) -> None:
    """16 of the 48 prompts do: four steps of four are all of them, each asked once, in one pass over the data."""
    config = config_of(inputs, tmp_path / "run", 4, method={"name": "dapo", "resample": 10})
    tk.train(config)
    made = samples(tmp_path / "run")
    numbers = [int(sample["prompt"].split()[-1]) for sample in made]
    assert [sample["step"] for sample in made] == [step for step in (1, 2, 3, 4) for _ in range(4)]
    assert all(number % 3 == 0 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["idle"] for line in log if line["kind"] == "train"] == [0.0] * 4


def test_what_is_missing_after_the_last_round_is_left_out(inputs: Path, tmp_path: Path) -> None:
    tk.train(config_of(inputs, tmp_path / "run", 2, method={"name": "dapo", "resample": 1}))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    idle = [line["idle"] for line in log if line["kind"] == "train"]
    taught = [len({a["rewards"]["picky"] for a in s["answers"]}) > 1 for s in samples(tmp_path / "run")]
    assert idle == [1 - sum(taught[i : i + 4]) / 4 for i in (0, 4)]
    assert any(idle)


def test_the_data_is_passed_over_again_where_it_does_not_suffice(inputs: Path, tmp_path: Path) -> None:
    result = tk.train(config_of(inputs, tmp_path / "run", 8))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert result.steps == 8
    assert [line["epoch"] for line in log if line["kind"] == "train"][-1] > 1


@pytest.mark.parametrize("options", [{}, {"steps_per_rollout": 2, "iterations": 2}])
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_stopped_run_goes_on_bit_by_bit(inputs: Path, tmp_path: Path, options: dict[str, Any], step: int) -> None:
    method = {"name": "dapo", "resample": 3, **options}
    whole = config_of(inputs, tmp_path / "whole", 6, method=method, callbacks={"interrupt": {"step": 99}})
    part = config_of(inputs, tmp_path / "part", 6, method=method, callbacks={"interrupt": {"step": step}})
    tk.train(whole)
    assert tk.train(part).steps == step + 1
    tk.train({**part, "train": {**part["train"], "resume": True}})
    first, second = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert samples(tmp_path / "whole") == samples(tmp_path / "part")


@pytest.mark.slow
def test_it_trains_the_same_however_it_is_spread(inputs: Path, tmp_path: Path) -> None:
    config = config_of(inputs, tmp_path / "run", 2, eval={"hold_out": 3}, method={"name": "dapo", "resample": 3})
    del config["output"]
    config["train"] = {"batch_size": 8, "steps": 2}
    config["optim"] = {"name": "sgd", "lr": 1e-3}
    check_method(config, tmp_path, strategies=("ddp",))
