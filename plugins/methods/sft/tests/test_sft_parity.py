"""Loss and gradients of `sft` on a tiny model equal a loop written by hand, and TRL's trainer on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from tk.contracts import Encoding, Layout, Limit, LoadedModel
from tk.sample import Sample
from tk_lm_losses.losses import CausalLm, Dft
from tk_lm_losses.options import CausalLmOptions
from tk_sft.method import Sft
from tk_sft.options import SftOptions
from tk_tensor.collate import reduce_for
from tk_tensor.scored import build_scored

CONFIG = LlamaConfig(
    vocab_size=101,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
LAYOUTS = {
    "right": Layout(pad_id=0),
    "left": Layout(pad_id=0, side="left"),
    "packed": Layout(pad_id=0, packing=True),
    "packed, multiple of 16": Layout(pad_id=0, packing=True, multiple=16),
}
LOSSES = {
    "causal-lm": CausalLm(),
    "smoothed": CausalLm(CausalLmOptions(label_smoothing=0.1)),
    "z-loss": CausalLm(CausalLmOptions(z_loss=1e-3)),
    "dft": Dft(),
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG)


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


def ours(
    model: nn.Module, encodings: list[Encoding], layout: Layout, loss: Any, micro: int = 4
) -> tuple[float, Tensor]:
    """Objective and gradient of one optimizer step, as the contracts define them."""
    method = Sft(SftOptions(), {"it": (1.0, loss)})
    scored = build_scored({"policy": LoadedModel(model, None, "")}, method.roles(), None)  # type: ignore[arg-type]
    examples = [e for found in method.encode([Sample()] * len(encodings), Fixed(encodings), Limit()) for e in found]  # type: ignore[arg-type]
    rows = [examples[:3], examples[3:]] if layout.packing else [[e] for e in examples]
    batches = [method.collate(rows[i : i + micro], layout) for i in range(0, len(rows), micro)]
    whole = sum(b.weights["it"] for b in batches)
    model.zero_grad()
    value = 0.0
    for batch in batches:
        outputs = scored(batch.inputs, batch.fields, method.passes(batch))
        term = method.loss(outputs, batch, reduce_for(batch)).terms["it"]
        part = term.coef * term.sum / whole
        part.backward()
        value += part.item()
    return value, torch.cat([p.grad.flatten() for p in model.parameters()])


def by_hand(model: nn.Module, encodings: list[Encoding], name: str) -> tuple[float, Tensor]:
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
    return value, torch.cat([p.grad.flatten() for p in model.parameters()])


def same(one: tuple[float, Tensor], other: tuple[float, Tensor], bound: float = 1e-5) -> None:
    assert abs(one[0] - other[0]) <= bound * abs(other[0])
    assert torch.linalg.norm(one[1] - other[1]) <= bound * torch.linalg.norm(other[1])


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss_and_gradients_equal_a_loop_written_by_hand(
    model: nn.Module, encodings: list[Encoding], name: str, layout: str
) -> None:
    same(ours(model, encodings, LAYOUTS[layout], LOSSES[name]), by_hand(model, encodings, name))


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_accumulation_equals_one_batch(model: nn.Module, encodings: list[Encoding], layout: str) -> None:
    one = ours(model, encodings, LAYOUTS[layout], CausalLm())
    same(ours(model, encodings, LAYOUTS[layout], CausalLm(), micro=1), one, 2e-6)


def test_token_weights_scale_their_tokens_and_the_normaliser(model: nn.Module, encodings: list[Encoding]) -> None:
    heavy = [Encoding(e.ids, [2.0 * w for w in e.weights]) for e in encodings]
    same(ours(model, heavy, LAYOUTS["right"], CausalLm()), ours(model, encodings, LAYOUTS["right"], CausalLm()))


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
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(101)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)), pad_token="w0", eos_token="w0")
    rows = [{"input_ids": list(e.ids), "completion_mask": [int(w) for w in e.weights]} for e in encodings]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), loss_type=kind, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        completion_only_loss=True, save_strategy="no", per_device_train_batch_size=len(rows) // accumulated,
        gradient_accumulation_steps=accumulated,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    model.zero_grad()
    batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), accumulated, torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = len(batches)
    assert (len(batches), int(tokens)) == (accumulated, sum(sum(e.weights[1:]) for e in encodings))
    loss = sum(trainer.training_step(model, batch, num_items_in_batch=tokens).item() for batch in batches)
    theirs = loss, torch.cat([p.grad.flatten() for p in model.parameters()])
    same(ours(model, encodings, LAYOUTS[layout], LOSSES[name], micro), theirs)
