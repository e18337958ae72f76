"""Loss and gradients of `dpo` on tiny models equal TRL's trainer on the same pairs, laid out in every way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import pytest
import torch
import trl
from torch import nn

from tk.contracts import Layout, Loss
from tk.sample import Sample
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
from tk_dpo.method import Dpo
from tk_dpo.options import DpoOptions
from tk_lm_losses.losses import CausalLm
from tk_preference_losses.bco_pair import BcoPair
from tk_preference_losses.hinge import Hinge
from tk_preference_losses.ipo import Ipo
from tk_preference_losses.sigmoid import Sigmoid

PAIRS = [((9, 4, 6), 1), ((23, 5, 2), 2), ((14, 3, 3), 3), ((5, 7, 1), 4)]
"""Tokens of prompt, chosen and rejected, and a seed."""
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
    model = tiny_model()
    if request.param == "full":
        return moved(copy.deepcopy(model)), model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return moved(peft.get_peft_model(model, LORA)), None


def samples(features: Sequence[Mapping[str, list[int]]]) -> list[Sample]:
    return [of_numbers(f["prompt_ids"], f["chosen_ids"], f["rejected_ids"]) for f in features]


def ours(
    models: tuple[nn.Module, nn.Module | None],
    features: Sequence[Mapping[str, list[int]]],
    losses: Mapping[str, tuple[float, Loss]],
    layout: Layout,
    micro: int = 4,
) -> Stepped:
    model, reference = models
    method = Dpo(DpoOptions(reference="elsewhere" if reference else None), losses)
    batches = batches_of(method, examples_of(method, samples(features)), layout, micro=micro)
    return one_step(method, {"policy": model, **({"reference": reference} if reference else {})}, batches)


def theirs(
    models: tuple[nn.Module, nn.Module | None],
    features: Sequence[Mapping[str, list[int]]],
    losses: Mapping[str, tuple[float, Loss]],
    folder: Path,
) -> Stepped:
    """The same by TRL's DPOTrainer."""
    model, reference = models
    arguments = trl.DPOConfig(
        output_dir=str(folder),
        loss_type=list(losses),
        loss_weights=[weight for weight, _ in losses.values()],
        beta=0.1,
        **TRAINER,
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
        processing_class=number_tokenizer(),
        peft_config=LORA if reference is None else None,
    )
    trainer.model.load_state_dict(model.state_dict())
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(features)))
    loss.backward()
    return loss.item(), gradient(trainer.model)


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_loss_and_gradients_equal_trls_trainer(
    models: tuple[nn.Module, nn.Module | None],
    features: list[dict[str, list[int]]],
    name: str,
    tmp_path: Path,
) -> None:
    losses = MIXTURES[name]
    expected = theirs(models, features, losses, tmp_path)
    for layout_name, layout in LAYOUTS.items():
        check_same(ours(models, features, losses, layout), expected, layout_name)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_accumulation_equals_one_batch(
    models: tuple[nn.Module, nn.Module | None], features: list[dict[str, list[int]]], layout: str
) -> None:
    one = ours(models, features, MIXTURES["MPO"], LAYOUTS[layout])
    check_same(ours(models, features, MIXTURES["MPO"], LAYOUTS[layout], micro=1), one, bound=2e-6)
