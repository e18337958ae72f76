"""Sharded training equals a plain float64 loop; what it saves can be restored on any number of processes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tk.errors import UsageError
from tk_parallel.blocks import blocks
from tk_parallel.testing import run_processes

SCRIPT = Path(__file__).with_name("fsdp_checks.py")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 2), (2, 1), (1, 2)])
def test_training_equals_a_plain_loop_and_goes_on_from_what_was_saved(tmp_path: Path, first: int, then: int) -> None:
    run_processes(SCRIPT, "fp32", str(tmp_path), "save", world=first)
    run_processes(SCRIPT, "fp32", str(tmp_path), "resume", world=then)
    if first == then:
        run_processes(SCRIPT, "fp32", str(tmp_path), "whole", world=first)
        whole, resumed = (load_file(tmp_path / f"end-{mode}-{first}") for mode in ("whole", "resume"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_lower_precision_keeps_weights_and_float_inputs_in_single_precision(tmp_path: Path, precision: str) -> None:
    run_processes(SCRIPT, precision, str(tmp_path), "save", world=2)
    assert all(value.dtype == torch.float32 for value in load_file(tmp_path / "weights").values())


def test_a_class_of_blocks_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="NoSuchLayer"):
        blocks(torch.nn.Linear(2, 2), ["NoSuchLayer"])
