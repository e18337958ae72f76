"""Loss and gradients of `dpo` on tiny models equal TRL's trainer on the same pairs, laid out in every way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
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
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tk.contracts import Encoding, Layout, Limit, LoadedModel, Loss
from tk.sample import Message, Sample
from tk_dpo.method import Dpo
from tk_dpo.options import DpoOptions
from tk_lm_losses.losses import CausalLm
from tk_preference_losses.bco_pair import BcoPair
from tk_preference_losses.hinge import Hinge
from tk_preference_losses.ipo import Ipo
from tk_preference_losses.sigmoid import Sigmoid
from tk_tensor import branches
from tk_tensor.collate import reduce_for
from tk_tensor.scored import build_scored

PAIRS = [((9, 4, 6), 1), ((23, 5, 2), 2), ((14, 3, 3), 3), ((5, 7, 1), 4)]
"""Tokens of prompt, chosen and rejected, and a seed."""
LAYOUTS = {
    "right": Layout(pad_id=0),
    "left": Layout(pad_id=0, side="left"),
    "packed": Layout(pad_id=0, packing=True),
    "shared": Layout(pad_id=0, shared_prefix=True),
    "shared, left": Layout(pad_id=0, shared_prefix=True, side="left"),
    "shared, packed to 16": Layout(pad_id=0, shared_prefix=True, packing=True, multiple=16),
}
MIXTURES: Mapping[str, Mapping[str, tuple[float, Loss]]] = {
    "sigmoid": {"sigmoid": (1.0, Sigmoid())},
    "ipo": {"ipo": (1.0, Ipo())},
    "hinge": {"hinge": (1.0, Hinge())},
    "bco_pair": {"bco_pair": (1.0, BcoPair())},
    "sft": {"sft": (1.0, CausalLm())},
    "MPO": {"sigmoid": (0.8, Sigmoid()), "bco_pair": (0.2, BcoPair()), "sft": (1.0, CausalLm())},
    "RPO": {"sigmoid": (1.0, Sigmoid()), "sft": (0.3, CausalLm())},
}


LORA = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


class Off:
    """A tuner that switches the adapter off."""

    def adapter_off(self, module: Any) -> AbstractContextManager[None]:
        off: AbstractContextManager[None] = module.disable_adapter()
        return off


class Fixed:
    """A template that gives the tokens that stand in the messages."""

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        return [self._of(sample) for sample in samples]

    def _of(self, sample: Sample) -> Encoding:
        ids: list[int] = []
        weights: list[float] = []
        for message in sample.messages:
            tokens = [int(word) for word in message.text.split()]
            ids += tokens
            weights += [float(message.loss is None and message.role == "assistant")] * len(tokens)
        return Encoding(ids, weights)


@pytest.fixture(scope="module")
def features() -> list[dict[str, list[int]]]:
    """Pairs as TRL's collator takes them; the answers begin with the same token."""
    made = []
    for (prompt, chosen, rejected), seed in PAIRS:
        draw = np.random.default_rng(seed)
        made.append(
            {
                "prompt_ids": draw.integers(1, 101, prompt).tolist(),
                "chosen_ids": [7, *draw.integers(1, 101, chosen).tolist()],
                "rejected_ids": [7, *draw.integers(1, 101, rejected).tolist()],
            }
        )
    return made


@pytest.fixture(params=["full", "lora"])
def models(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module | None]:
    """A policy that has moved away from its reference, and the reference (None: the policy without its adapter)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model: Any = LlamaForCausalLM(config)
    reference = None
    if request.param == "full":
        reference = copy.deepcopy(model)
    else:
        model = peft.get_peft_model(model, LORA)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model, reference


def samples(features: Sequence[Mapping[str, list[int]]]) -> list[Sample]:
    def said(role: str, ids: list[int]) -> Message:
        return Message(role, " ".join(map(str, ids)))

    return [
        Sample(
            messages=(said("user", f["prompt_ids"]), said("assistant", f["chosen_ids"])),
            rejected=(said("assistant", f["rejected_ids"]),),
            shared=1,
        )
        for f in features
    ]


def ours(
    models: tuple[nn.Module, nn.Module | None],
    features: Sequence[Mapping[str, list[int]]],
    losses: Mapping[str, tuple[float, Loss]],
    layout: Layout,
    micro: int = 4,
) -> tuple[float, Tensor]:
    """Objective and gradient of one optimizer step, as the contracts define them."""
    model, reference = models
    method = Dpo(DpoOptions(reference="elsewhere" if reference else None), losses)
    loaded = {"policy": LoadedModel(model, None, "")}
    if reference is not None:
        loaded["reference"] = LoadedModel(reference, None, "")
    scored = build_scored(loaded, method.roles(), Off())  # type: ignore[arg-type]
    examples = [e for found in method.encode(samples(features), Fixed(), Limit()) for e in found]  # type: ignore[arg-type]
    rows = [examples[:3], examples[3:]] if layout.packing else [[e] for e in examples]
    batches = [method.collate(rows[i : i + micro], layout) for i in range(0, len(rows), micro)]
    totals = {name: sum(b.weights[name] for b in batches) for name in losses}
    model.zero_grad()
    value = 0.0
    for batch in batches:
        outputs = scored(batch.inputs, batch.fields, method.passes(batch))
        terms = method.loss(outputs, batch, reduce_for(batch)).terms
        part = torch.stack([term.coef * term.sum / totals[name] for name, term in terms.items()]).sum()
        part.backward()
        value += part.item()
    return value, gradient(model)


def theirs(
    models: tuple[nn.Module, nn.Module | None],
    features: Sequence[Mapping[str, list[int]]],
    losses: Mapping[str, tuple[float, Loss]],
    folder: Path,
) -> tuple[float, Tensor]:
    """The same by TRL's DPOTrainer."""
    model, reference = models
    words = {f"w{i}": i for i in range(101)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w0"
    )
    arguments = trl.DPOConfig(
        output_dir=str(folder),
        loss_type=list(losses),
        loss_weights=[weight for weight, _ in losses.values()],
        beta=0.1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        disable_dropout=False,
    )
    rows = datasets.Dataset.from_list([{"prompt": "w1", "chosen": "w2", "rejected": "w3"}])
    # A model that has its adapter already would be its own reference there.
    plain: Any = copy.deepcopy(model) if reference is not None else copy.deepcopy(model).unload()  # type: ignore[operator]
    trainer = trl.DPOTrainer(
        model=plain,
        ref_model=reference,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LORA if reference is None else None,
    )
    trainer.model.load_state_dict(model.state_dict())
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(features)))
    loss.backward()
    return loss.item(), gradient(trainer.model)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def same(one: tuple[float, Tensor], other: tuple[float, Tensor], bound: float = 1e-5) -> None:
    assert abs(one[0] - other[0]) <= bound * abs(other[0])
    assert other[1].abs().max() > 0
    assert torch.linalg.norm(one[1] - other[1]) <= bound * torch.linalg.norm(other[1])


@pytest.fixture
def always_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trunks are shared however short they are."""
    monkeypatch.setattr(branches, "SHARED_FROM", 0.0)


@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_loss_and_gradients_equal_trls_trainer(
    models: tuple[nn.Module, nn.Module | None],
    features: list[dict[str, list[int]]],
    name: str,
    tmp_path: Path,
) -> None:
    losses = MIXTURES[name]
    expected = theirs(models, features, losses, tmp_path)
    for layout in LAYOUTS.values():
        same(ours(models, features, losses, layout), expected)


@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_accumulation_equals_one_batch(
    models: tuple[nn.Module, nn.Module | None], features: list[dict[str, list[int]]], layout: str
) -> None:
    one = ours(models, features, MIXTURES["MPO"], LAYOUTS[layout])
    same(ours(models, features, MIXTURES["MPO"], LAYOUTS[layout], micro=1), one, 2e-6)
