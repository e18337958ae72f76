"""What DeepSpeed is given: presets, a user's own file, "auto", and what would not be tk's training any more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from tk.errors import UsageError
from tk_deepspeed.document import PRESETS, Facts, document_of
from tk_deepspeed.options import DeepspeedOptions, Preset

FACTS = Facts("fp32", 1.0, "AdamW", 64)


def filled(tmp_path: Path, tree: Any, facts: Facts = FACTS) -> dict[str, Any]:
    path = tmp_path / "ds.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return document_of(DeepspeedOptions(config=str(path))).filled(facts)


def test_every_preset_is_a_config_that_the_checks_let_through() -> None:
    assert set(PRESETS) == set(get_args(Preset))
    for name in PRESETS:
        document = document_of(DeepspeedOptions(preset=name))
        document.check()
        found = document.filled(FACTS)
        assert found["gradient_accumulation_steps"] == found["train_micro_batch_size_per_gpu"] == 1
        assert found["zero_optimization"]["stage"] == document.stage == int(name[4])
        assert "auto" not in json.dumps(found)
        offloaded = {key for key in found["zero_optimization"] if key.startswith("offload")}
        assert offloaded == ({"offload_optimizer"} if name == "zero2_offload" else set()) | (
            {"offload_optimizer", "offload_param"} if name == "zero3_offload" else set()
        )
    assert document_of(DeepspeedOptions()).stage == 2


def test_auto_stands_for_what_the_run_says(tmp_path: Path) -> None:
    tree = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto", "loss_scale": 0},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "sub_group_size": 1000,
        },
        "steps_per_print": 2000,
    }
    found = filled(tmp_path, tree)
    assert found == {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 4096,
            "stage3_prefetch_bucket_size": 3686,
            "stage3_param_persistence_threshold": 640,
            "sub_group_size": 1000,
        },
        "steps_per_print": 2000,
    }
    in_bf16 = filled(tmp_path, tree, replace(FACTS, precision="bf16", max_norm=None))
    assert in_bf16["bf16"] == {"check_grad_overflow": True, "enabled": True}
    assert in_bf16["data_types"] == {"grad_accum_dtype": "fp32"}
    assert in_bf16["gradient_clipping"] == 0.0
    unknown = filled(tmp_path, tree, replace(FACTS, hidden=None))["zero_optimization"]
    assert unknown == {"stage": 3, "sub_group_size": 1000}


def test_stage_0_is_clipped_by_tk_and_keeps_its_weights_in_fp32(tmp_path: Path) -> None:
    found = filled(tmp_path, {"bf16": {"enabled": "auto"}}, replace(FACTS, precision="bf16"))
    assert found["gradient_clipping"] == 0.0
    assert "bf16" not in found


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"gradient_clipping": 0.5}, r"gradient_clipping: it is 0.5, and train.max_grad_norm 1.0"),
        ({"train_batch_size": 64}, "train_batch_size: rows of a step"),
        ({"gradient_accumulation_steps": 2}, "train.micro_batch_size"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: the schedule is tk's: --scheduler"),
        ({"optimizer": {"type": "Lion", "params": {}}}, "optimizer.type: it is Lion, and the run's is AdamW"),
        ({"optimizer": {"params": {"lr": 1e-3}}}, "optimizer.params.lr: the optimizer is tk's"),
        ({"gradient_allreduce_op": "sum"}, "nothing may rescale a gradient"),
        ({"prescale_gradients": True}, "nothing may rescale a gradient"),
        ({"zero_optimisation": {"stage": 2}}, "Did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stage": 4}}, "must be 0, 1, 2 or 3, not 4"),
        ({"zero_optimization": 2}, "zero_optimization: it must be an object"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "it rounds the weights"),
        ({"zero_optimization": {"stage": 2, "round_robin_gradients": True}}, "which weights a partition holds"),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}},
            "offload_optimizer.device: only \"cpu\" works here, not 'nvme'",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "it needs stage 3, and this is stage 2",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "it needs stage 1 or more, and this is stage 0",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}},
            "offload_optimizer.ratio",
        ),
        ({"fp16": {"enabled": True}}, "fp16.enabled: losses are scaled at stage 0 only"),
        (
            {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}},
            r"the run computes in fp32 \(train.precision\)",
        ),
        (
            {"zero_optimization": {"stage": 2, "allgather_bucket_size": "auto"}},
            "allgather_bucket_size: nothing in tk's",
        ),
        ('{"bf16": {}, "bf16": {}}', "'bf16' stands there twice"),
        ('{"bf16": }', r"ds.json:1:10: this is not JSON"),
        ("[]", "a DeepSpeed config is an object"),
    ],
)
def test_what_does_not_agree_with_tk_is_named_with_the_mend(tmp_path: Path, tree: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        filled(tmp_path, tree)


def test_a_file_that_is_not_there_and_two_choices_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone.json cannot be read: No such file"):
        document_of(DeepspeedOptions(config=str(tmp_path / "gone.json")))
    with pytest.raises(UsageError, match="this or strategy.preset, not both"):
        document_of(DeepspeedOptions(config="x.json", preset="zero2"))
