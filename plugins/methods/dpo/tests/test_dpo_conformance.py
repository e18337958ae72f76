"""`dpo` trains the same whatever the accumulation and the number of processes, with either kind of reference."""

import pytest

from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_run


@pytest.fixture
def config(tmp_path):
    rows = [
        {"prompt": "ab" * (30 if i % 2 else i), "chosen": "cd" * (9 - i), "rejected": "ef" * i} for i in range(1, 9)
    ]
    return tiny_run(tmp_path, rows, method="dpo", losses={"sigmoid": 0.8, "bco-pair": 0.2, "sft": 1.0})


def test_with_the_adapter_switched_off(config, tmp_path):
    check_method({**config, "tuner": {"name": "lora", "rank": 2}}, tmp_path, strategies=("ddp", "fsdp"))


def test_with_a_frozen_copy(config, tmp_path):
    check_method({**config, "tuner": {"name": "full"}}, tmp_path, strategies=("ddp", "fsdp"))
