"""Both methods train the same whatever the accumulation and the number of processes."""

import pytest

from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_run


def test_sft(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "ab" * i}, {"role": "assistant", "content": "cd" * (9 - i)}]}
        for i in range(1, 9)
    ]
    check_method(tiny_run(tmp_path, rows, tuner="full"), tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.slow
def test_pt(tmp_path):
    rows = [{"text": "xyz" * i} for i in range(1, 9)]
    check_method(tiny_run(tmp_path, rows, method="pt", tuner="full"), tmp_path)
