"""Loss and gradients of `sft` on a tiny model equal a loop written by hand, and TRL's trainer on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tk.contracts import Encoding, Layout, Limit
from tk.sample import Sample
from tk_conformance.parity import (
    LAYOUTS,
    TRAINER,
    Stepped,
    batches_of,
    check_same,
    gradient,
    number_tokenizer,
    one_step,
    tiny_model,
)
from tk_lm_losses.losses import CausalLm, Dft
from tk_lm_losses.options import CausalLmOptions
from tk_sft.method import Sft
from tk_sft.options import SftOptions

PLAIN = {name: layout for name, layout in LAYOUTS.items() if not layout.shared_prefix}
LOSSES = {
    "causal-lm": CausalLm(),
    "smoothed": CausalLm(CausalLmOptions(label_smoothing=0.1)),
    "z-loss": CausalLm(CausalLmOptions(z_loss=1e-3)),
    "dft": Dft(),
}


@pytest.fixture
def model() -> nn.Module:
    return tiny_model()


@pytest.fixture(scope="module")
def encodings() -> list[Encoding]:
    rng = np.random.default_rng(0)
    made = []
    for n in (9, 23, 14, 5):
        weights = [0.0] * (n // 3) + [1.0] * (n - n // 3)
        made.append(Encoding(rng.integers(1, 101, n).tolist(), weights))
    return made


class Fixed:
    """A template that gives these encodings."""

    def __init__(self, encodings: list[Encoding]) -> None:
        self.encodings = encodings

    def encode(self, samples: Any, *, generation: bool = False) -> list[Encoding]:
        return self.encodings


def ours(model: nn.Module, encodings: list[Encoding], layout: Layout, loss: Any, micro: int = 4) -> Stepped:
    method = Sft(SftOptions(), {"it": (1.0, loss)})
    examples = [e for own in method.encode([Sample()] * len(encodings), Fixed(encodings), Limit()) for e in own]  # type: ignore[arg-type]
    return one_step(method, {"policy": model}, batches_of(method, examples, layout, micro=micro))


def by_hand(model: nn.Module, encodings: list[Encoding], name: str) -> Stepped:
    """The token mean over the whole batch, one sample after another, full logits and shifted labels."""
    model.zero_grad()
    total = sum(sum(e.weights[1:]) for e in encodings)
    value = 0.0
    for e in encodings:
        ids, weights = torch.tensor(e.ids)[None], torch.tensor(e.weights)
        labels = torch.where(weights > 0, ids[0], -100)[1:]
        logits = model(input_ids=ids).logits[0, :-1]
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1 if name == "smoothed" else 0.0)
        if name == "z-loss":
            losses = losses + 1e-3 * logits.logsumexp(-1).square() * (labels >= 0)
        if name == "dft":
            losses = losses * (-losses).exp().detach()
        part = losses.sum() / total
        part.backward()
        value += part.item()
    return value, gradient(model)


@pytest.mark.parametrize("layout", sorted(PLAIN))
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss_and_gradients_equal_a_loop_written_by_hand(
    model: nn.Module, encodings: list[Encoding], name: str, layout: str
) -> None:
    check_same(ours(model, encodings, PLAIN[layout], LOSSES[name]), by_hand(model, encodings, name))


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_accumulation_equals_one_batch(model: nn.Module, encodings: list[Encoding], layout: str) -> None:
    one = ours(model, encodings, PLAIN[layout], CausalLm())
    check_same(ours(model, encodings, PLAIN[layout], CausalLm(), micro=1), one, bound=2e-6)


def test_token_weights_scale_their_tokens_and_the_normaliser(model: nn.Module, encodings: list[Encoding]) -> None:
    heavy = [Encoding(e.ids, [2.0 * w for w in e.weights]) for e in encodings]
    check_same(ours(model, heavy, PLAIN["right"], CausalLm()), ours(model, encodings, PLAIN["right"], CausalLm()))


@pytest.mark.parametrize(("kind", "name"), [("nll", "causal-lm"), ("dft", "dft")])
@pytest.mark.parametrize(("layout", "micro"), [("right", 4), ("left", 2), ("packed", 4), ("packed", 1)])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_loss_and_gradients_equal_trls_trainer(
    model: nn.Module,
    encodings: list[Encoding],
    kind: str,
    name: str,
    layout: str,
    micro: int,
    accumulated: int,
    tmp_path: Path,
) -> None:
    """One optimizer step by TRL's own `training_step`, in one batch and accumulated over four."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = [{"input_ids": list(e.ids), "completion_mask": [int(w) for w in e.weights]} for e in encodings]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), loss_type=kind, completion_only_loss=True, **TRAINER, per_device_train_batch_size=len(rows) // accumulated,
        gradient_accumulation_steps=accumulated,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=number_tokenizer()
    )
    model.zero_grad()
    batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), accumulated, torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = len(batches)
    assert (len(batches), int(tokens)) == (accumulated, sum(sum(e.weights[1:]) for e in encodings))
    loss = sum(trainer.training_step(model, batch, num_items_in_batch=tokens).item() for batch in batches)
    theirs = loss, gradient(model)
    check_same(ours(model, encodings, PLAIN[layout], LOSSES[name], micro), theirs)
