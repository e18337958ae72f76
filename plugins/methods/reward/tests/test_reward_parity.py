"""Loss and gradients of `reward` equal TRL's trainer on the same pairs; what is saved opens in plain transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import pytest
import torch
import trl
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

import tk
from tk.contracts import Encoding, Layout, Limit, LoadedModel
from tk.sample import Message, Sample
from tk_conformance.methods import check_method
from tk_conformance.tiny import tiny_checkpoint
from tk_reward.method import Reward
from tk_score_losses.options import BradleyTerryOptions
from tk_score_losses.pairs import BradleyTerry
from tk_tensor import branches
from tk_tensor.collate import reduce_for
from tk_tensor.scored import build_scored

SHAPES = [(9, 4, 6), (23, 5, 2), (14, 3, 3), (5, 7, 1)]
"""Tokens of prompt, chosen and rejected answer."""
LAYOUTS = {
    "right": Layout(pad_id=0),
    "left": Layout(pad_id=0, side="left"),
    "packed": Layout(pad_id=0, packing=True),
    "shared": Layout(pad_id=0, shared_prefix=True),
    "shared, packed": Layout(pad_id=0, shared_prefix=True, packing=True),
}
LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])


class Fixed:
    """A template that gives the tokens that stand in the messages."""

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        found = []
        for sample in samples:
            parts = [([int(word) for word in m.text.split()], m.role == "assistant") for m in sample.messages]
            ids = [token for tokens, _ in parts for token in tokens]
            found.append(Encoding(ids, [float(said) for tokens, said in parts for _ in tokens]))
        return found


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
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_labels=1,
        pad_token_id=0,
    )
    made: Any = LlamaForSequenceClassification(config)
    if request.param == "lora":
        made = peft.get_peft_model(made, LORA)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def ours(model: nn.Module, pairs: list[dict[str, Any]], loss: BradleyTerry, layout: Layout) -> tuple[float, Tensor]:
    def said(role: str, ids: list[int]) -> Message:
        return Message(role, " ".join(map(str, ids)))

    samples = [
        Sample(
            messages=(said("user", p["prompt"]), said("assistant", p["chosen"])),
            rejected=(said("assistant", p["rejected"]),),
            shared=1,
            extras={"margin": p["margin"]},
        )
        for p in pairs
    ]
    method = Reward({"it": (1.0, loss)})
    scored = build_scored({"policy": LoadedModel(model, None, "")}, method.roles(), None)  # type: ignore[arg-type]
    examples = [e for found in method.encode(samples, Fixed(), Limit()) for e in found]  # type: ignore[arg-type]
    rows = [examples[:3], examples[3:]] if layout.packing else [[e] for e in examples]
    batch = method.collate(rows, layout)
    model.zero_grad()
    outputs = scored(batch.inputs, batch.fields, method.passes(batch))
    value = method.loss(outputs, batch, reduce_for(batch)).terms["it"].sum / batch.weights["it"]
    value.backward()
    return value.item(), gradient(model)


@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_loss_and_gradients_equal_trls_trainer(
    model: nn.Module, pairs: list[dict[str, Any]], centring: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branches, "SHARED_FROM", 0.0)
    words = {f"w{i}": i for i in range(101)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w0"
    )
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path),
        center_rewards_coefficient=centring or None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
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
        processing_class=tokenizer,
    )
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(features))
    loss.backward()
    expected = gradient(trainer.model)
    for name, layout in LAYOUTS.items():
        value, found = ours(model, pairs, BradleyTerry(BradleyTerryOptions(centring)), layout)
        assert value == pytest.approx(loss.item(), rel=1e-5), name
        assert torch.linalg.norm(found - expected) <= 1e-5 * torch.linalg.norm(expected), name


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"prompt": "ab" * (20 if i % 2 else i), "chosen": "cd" * (9 - i), "rejected": "ef" * i} for i in range(1, 9)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": str(tiny_checkpoint(tmp_path / "base", vocab=300)),
        "data": str(tmp_path / "pairs.jsonl"),
        "method": "reward",
        "template": "chatml",
        "optim": {"name": "sgd", "lr": 1e-3},
        "train": {"batch_size": 8, "steps": 3},
        "report": {"html": False, "plot": False},
    }


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
