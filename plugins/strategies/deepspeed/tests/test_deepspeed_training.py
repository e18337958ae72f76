"""A small model under every config equals a plain float64 loop; what is saved goes on under any number of processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest
import torch
from safetensors.torch import load_file

from tk_deepspeed.document import PRESETS
from tk_parallel.testing import run_processes

SCRIPT = Path(__file__).with_name("deepspeed_checks.py")
LONG = 1700
EVERY = tuple({"preset": name} for name in PRESETS)


class Run(Protocol):
    def __call__(
        self, mode: str, world: int, runs: Sequence[dict[str, str]] = EVERY, precision: str = "fp32"
    ) -> None: ...


@pytest.fixture
def run(processes: Mapping[str, str], tmp_path: Path) -> Run:
    """Each run on its own engine, one after another in the same processes.

    The script compares weights and norms with a plain loop's; here it is asserted that each process came to the end of each.
    """

    def started(mode: str, world: int, runs: Sequence[dict[str, str]] = EVERY, precision: str = "fp32") -> None:
        given = [precision, str(tmp_path), mode, *map(json.dumps, runs)]
        done = run_processes(SCRIPT, *given, world=world, timeout=LONG, environment=processes)
        assert all(process.stdout.count("checked") == len(runs) for process in done), done[0].stdout

    return started


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize(("first", "then"), [(2, 2), (4, 1), (1, 2), (2, 4)])
def test_training_equals_a_plain_loop_and_goes_on_from_what_was_saved(
    run: Run, tmp_path: Path, first: int, then: int
) -> None:
    run("save", first)
    run("resume", then)
    if first == then:
        run("whole", first)
        for name in PRESETS:
            whole, resumed = (load_file(tmp_path / name / f"end-{mode}-{first}") for mode in ("whole", "resume"))
            assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_what_one_stage_has_saved_another_goes_on_from(run: Run, tmp_path: Path) -> None:
    run("save", 2, [{"preset": "zero3"}])
    for name in ("zero0", "zero1", "zero2_offload"):
        (tmp_path / name).symlink_to(tmp_path / "zero3")
    run("resume", 2, [{"preset": "zero0"}, {"preset": "zero1"}, {"preset": "zero2_offload"}])


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_in_bf16_what_is_updated_stays_in_single_precision(run: Run, tmp_path: Path) -> None:
    run("save", 2, precision="bf16")
    run("resume", 2, precision="bf16")
    run("whole", 2, precision="bf16")
    for name in PRESETS:
        assert all(value.dtype == torch.float32 for value in load_file(tmp_path / name / "weights").values())
        whole, resumed = (load_file(tmp_path / name / f"end-{mode}-2") for mode in ("whole", "resume"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_fp16_is_scaled_at_stage_0_and_refused_elsewhere(run: Run) -> None:
    run("save", 2, [{"preset": "zero0"}], precision="fp16")
    with pytest.raises(AssertionError, match=r"train.precision: fp16 needs losses that are scaled"):
        run("save", 2, [{"preset": "zero2"}], precision="fp16")
