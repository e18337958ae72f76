"""The norm of gradients has single precision, whatever the gradients have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tk_ddp.options import DdpOptions
from tk_ddp.strategy import Ddp
from tk_parallel.testing import run_processes


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.lists(st.lists(st.floats(2**-6, 6e4, width=16), min_size=1, max_size=40), min_size=1, max_size=4),
)
def test_it_is_that_of_the_numbers(dtype: torch.dtype, values: list[list[float]]) -> None:
    """Norms beyond the largest number of float16 as well."""
    gradients = [torch.tensor(each).to(dtype) for each in values]
    expected = torch.cat(gradients).double().norm().item()
    assert Ddp(DdpOptions()).norm(gradients) == pytest.approx(expected, rel=1e-6)


def test_it_is_that_of_all_shards() -> None:
    done = run_processes(Path(__file__).with_name("norm_checks.py"), world=2)
    assert all(process.stdout.strip() == "checked" for process in done)
