"""`dpo` trains the same whatever the accumulation and the number of processes, with either kind of reference."""

import json

import pytest

import tk
from tk import setup
from tk.contracts import World
from tk.errors import TkError
from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_checkpoint, tiny_run
from tk_torch.assemble import assemble


@pytest.fixture
def config(tmp_path):
    rows = [
        {"prompt": "ab" * (30 if i % 2 else i), "chosen": "cd" * (9 - i), "rejected": "ef" * i} for i in range(1, 9)
    ]
    return tiny_run(tmp_path, rows, method="dpo", losses={"sigmoid": 0.8, "bco-pair": 0.2, "sft": 1.0})


@pytest.mark.slow
def test_with_the_adapter_switched_off(config, tmp_path):
    check_method({**config, "tuner": {"name": "lora", "rank": 2}}, tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.slow
def test_with_a_frozen_copy(config, tmp_path):
    check_method({**config, "tuner": {"name": "full"}}, tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_reference_that_is_not_there_is_told_before_anything_is_trained(config, method, tmp_path):
    options = {"name": method, "reference": str(tmp_path / "gone"), **({"kl": 0.1} if method == "grpo" else {})}
    rewards = {} if method == "dpo" else {"rewards": {"format": {}}, "losses": {}}
    made = {**config, "method": options, **rewards, "output": str(tmp_path / "run")}
    with pytest.raises(TkError, match="gone"):
        tk.train(made)
    assert not (tmp_path / "run").exists()


def batch_of(config):
    parts = assemble(setup.plan(setup.Given(values=[config])), World(0, 1, "cpu"), device="cpu")
    (batch,) = next(iter(parts.loader.windows())).batches
    return parts, batch


def test_long_prompts_are_computed_once_unless_the_model_cannot_and_then_it_is_said(config, tmp_path):
    rows = [{"prompt": "ab" * 60, "chosen": "cd" * i, "rejected": "ef" * i} for i in range(1, 5)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {
        **config,
        "data": str(tmp_path / "long.jsonl"),
        "train": {"batch_size": 4, "micro_batch_size": 4, "steps": 1},
    }
    parts, batch = batch_of(made)
    assert "branches" in batch.inputs
    assert len(batch.inputs["input_ids"]) == 4  # a row a pair
    assert parts.notes == []
    model = str(tiny_checkpoint(tmp_path / "mamba", "mamba", vocab=300))
    parts, batch = batch_of({**made, "model": model, "tuner": {"name": "full"}})
    assert "branches" not in batch.inputs
    assert len(batch.inputs["input_ids"]) == 8
    assert parts.notes == [
        "MambaForCausalLM cannot compute a prompt once for several answers: each has a row of its own."
    ]
    assert tk.train({**made, "model": model, "tuner": {"name": "full"}, "output": str(tmp_path / "run")}).steps == 1
