"""Loss and gradients of `reward` equal TRL's trainer on the same pairs; what is saved opens in plain transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import pytest
import torch
import trl
from torch import nn
from transformers import AutoModelForSequenceClassification

import tk
from tk.contracts import Layout
from tk_conformance.methods import check_method
from tk_conformance.parity import (
    LAYOUTS,
    TRAINER,
    Stepped,
    batches_of,
    check_same,
    examples_of,
    gradient,
    moved,
    number_tokenizer,
    of_numbers,
    one_step,
    tiny_model,
)
from tk_conformance.tiny import tiny_run
from tk_reward.method import Reward
from tk_score_losses.options import BradleyTerryOptions
from tk_score_losses.pairs import BradleyTerry

SHAPES = [(9, 4, 6), (23, 5, 2), (14, 3, 3), (5, 7, 1)]
"""Tokens of prompt, chosen and rejected answer."""
LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        {
            "prompt": draw.integers(1, 101, prompt).tolist(),
            "chosen": draw.integers(1, 101, chosen).tolist(),
            "rejected": draw.integers(1, 101, rejected).tolist(),
            "margin": margin,
        }
        for (prompt, chosen, rejected), margin in zip(SHAPES, (0.0, 0.5, 1.0, 0.0), strict=True)
    ]


@pytest.fixture(params=["full", "lora"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    model = tiny_model("LlamaForSequenceClassification", num_labels=1, pad_token_id=0)
    return moved(peft.get_peft_model(model, LORA)) if request.param == "lora" else model  # type: ignore[arg-type]


def ours(model: nn.Module, pairs: list[dict[str, Any]], loss: BradleyTerry, layout: Layout) -> Stepped:
    samples = [of_numbers(p["prompt"], p["chosen"], p["rejected"], margin=p["margin"]) for p in pairs]
    method = Reward({"it": (1.0, loss)})
    return one_step(method, {"policy": model}, batches_of(method, examples_of(method, samples), layout))


@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_loss_and_gradients_equal_trls_trainer(
    model: nn.Module, pairs: list[dict[str, Any]], centring: float, tmp_path: Path
) -> None:
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path),
        center_rewards_coefficient=centring or None,
        **TRAINER,
        disable_dropout=False,
    )
    features = [
        {"chosen_ids": p["prompt"] + p["chosen"], "rejected_ids": p["prompt"] + p["rejected"], "margin": p["margin"]}
        for p in pairs
    ]
    theirs: Any = copy.deepcopy(model)
    trainer = trl.RewardTrainer(
        model=theirs,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(features),
        processing_class=number_tokenizer(),
    )
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(features))
    loss.backward()
    expected = loss.item(), gradient(trainer.model)
    for name, layout in LAYOUTS.items():
        check_same(ours(model, pairs, BradleyTerry(BradleyTerryOptions(centring)), layout), expected, name)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"prompt": "ab" * (20 if i % 2 else i), "chosen": "cd" * (9 - i), "rejected": "ef" * i} for i in range(1, 9)
    ]
    return tiny_run(tmp_path, rows, method="reward")


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_it_trains_the_same_however_it_is_spread(config: dict[str, Any], tuner: str, tmp_path: Path) -> None:
    check_method({**config, "tuner": {"name": tuner}}, tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_what_is_saved_is_a_plain_sequence_classifier(config: dict[str, Any], tuner: str, tmp_path: Path) -> None:
    result = tk.train({**config, "tuner": {"name": tuner}, "eval": {"hold_out": 2}, "output": str(tmp_path / "run")})
    assert 0 <= result.evals["accuracy_low"] <= result.evals["accuracy"] <= result.evals["accuracy_high"] <= 1
    folder = tk.export(run=tmp_path / "run", to=tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.num_labels == 1
    assert plain.config.id2label == {0: "reward"}
    ids = torch.tensor([[5, 6, 7], [8, 9, 2]])
    assert plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 1)
    (tmp_path / "new.jsonl").write_text('{"prompt": "ab", "completion": "cd"}\n{"prompt": "abab", "completion": "e"}\n')
    rows = tk.score(run=tmp_path / "run", data=str(tmp_path / "new.jsonl"))
    assert [row.origin.rpartition(":")[2] for row in rows] == ["1", "2"]
    assert all(list(row.scores) == ["reward"] and row.label is None for row in rows)
