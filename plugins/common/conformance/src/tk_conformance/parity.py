"""What tests need that hold a method against another implementation: a tiny model, numbers for words, one step of ours.

Values and gradients are of one optimizer step, as the contracts define it, so that layouts and accumulation can be tried.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tk.contracts import Batch, Encoding, Example, Layout, Limit, LoadedModel, Method
from tk.sample import Message, Sample
from tk.testing.need import need
from tk_tensor.collate import reduce_for
from tk_tensor.scored import build_scored

VOCABULARY = 101
"""Ids of the tiny models; 0 is padding."""

LAYOUTS: Mapping[str, Layout] = {
    "right": Layout(pad_id=0),
    "left": Layout(pad_id=0, side="left"),
    "packed": Layout(pad_id=0, packing=True),
    "packed to 16": Layout(pad_id=0, packing=True, multiple=16),
    "shared": Layout(pad_id=0, shared_prefix=True, shared_from=0.0),
    "shared, left": Layout(pad_id=0, shared_prefix=True, shared_from=0.0, side="left"),
    "shared, packed to 16": Layout(pad_id=0, shared_prefix=True, shared_from=0.0, packing=True, multiple=16),
}
"""Every way of laying rows out; the shared ones share beginnings however short these are."""

TRAINER: Mapping[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
}
"""Options of trainers built on transformers' that take a step on a CPU and write nothing."""

Stepped = tuple[float, Tensor]
"""The objective of a step and its gradient, all parameters in one vector."""


def tiny_model(kind: str = "LlamaForCausalLM", *, seed: int = 0, **config: Any) -> nn.Module:
    """A random model of two layers in training mode. kind: its class in transformers. config: further fields."""
    import transformers

    cls = getattr(transformers, kind)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    known = inspect.signature(cls.config_class).parameters
    settings = cls.config_class(**{**{name: size for name, size in sizes.items() if name in known}, **config})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = cls(settings)
    return model.train()


@torch.no_grad()
def moved(model: nn.Module, *, by: float = 0.05, seed: int = 1) -> nn.Module:
    """The same model with noise on what is trained of it: a policy that has left its reference."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def number_tokenizer() -> Any:
    """A tokenizer of the words w0 … w100, for trainers that ask for one; w0 pads and ends."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="w0", eos_token="w0")


class Numbers:
    """A Template (tk.contracts) that gives the token ids which stand in messages or text.

    Trained are the assistant's, unless a message says otherwise, and those of text.
    """

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        return [self._of(sample) for sample in samples]

    def extend(self, ids: Sequence[int], messages: Sequence[Message]) -> Encoding:
        more = self._of(Sample(tuple(messages))).ids
        return Encoding([*ids, *more], [0.0] * (len(ids) + len(more)))

    def stop_ids(self) -> tuple[int, ...]:
        return (0,)

    def read(self, ids: Sequence[int]) -> Message:
        return Message("assistant", " ".join(map(str, ids)))

    def _of(self, sample: Sample) -> Encoding:
        if sample.text:
            ids = [int(word) for word in sample.text.split()]
            return Encoding(ids, [1.0] * len(ids))
        ids, weights = [], []
        for message in sample.messages:
            tokens = [int(word) for word in message.text.split()]
            trained = float(message.role == "assistant") if message.loss is None else message.loss
            ids += tokens
            weights += [trained] * len(tokens)
        return Encoding(ids, weights)


def examples_of(method: Method, samples: Sequence[Sample]) -> list[Example]:
    """What a method makes of samples of numbers, one behind another."""
    return [example for own in method.encode(samples, Numbers(), Limit()) for example in own]


def batches_of(
    method: Method, examples: Sequence[Example], layout: Layout, *, first: int = 3, micro: int = 99
) -> list[Batch]:
    """Micro-batches of `micro` rows: an example a row, or two rows where the layout packs, the first `first` in one."""
    rows = [examples[:first], examples[first:]] if layout.packing else [[example] for example in examples]
    return [method.collate(rows[at : at + micro], layout) for at in range(0, len(rows), micro)]


def of_numbers(prompt: Sequence[int], answer: Sequence[int], rejected: Sequence[int] = (), **extras: Any) -> Sample:
    """A sample whose messages are token ids, for `Numbers`; a pair where there is a rejected answer."""
    said = [
        Message(role, " ".join(map(str, ids)))
        for role, ids in (("user", prompt), ("assistant", answer), ("assistant", rejected))
    ]
    return Sample(
        messages=tuple(said[:2]), rejected=(said[2],) if rejected else (), shared=1 if rejected else 0, extras=extras
    )


class AdapterOff:
    """As much of a Tuner as a reference by a switched-off adapter needs, of peft's models."""

    def adapter_off(self, module: Any) -> AbstractContextManager[None]:
        off: AbstractContextManager[None] = module.disable_adapter()
        return off


def one_step(method: Method, models: Mapping[str, nn.Module], batches: Sequence[Batch]) -> Stepped:
    """Objective and gradient of the policy over the micro-batches of one optimizer step."""
    loaded = {role: LoadedModel(module, None, "") for role, module in models.items()}
    scored = build_scored(loaded, method.roles(), AdapterOff())  # type: ignore[arg-type]
    totals = {name: sum(batch.weights[name] for batch in batches) for name in batches[0].weights}
    models["policy"].zero_grad()
    value = 0.0
    for batch in batches:
        outputs = scored(batch.inputs, batch.fields, method.passes(batch))
        terms = method.loss(outputs, batch, reduce_for(batch)).terms
        part = torch.stack([term.coef * term.sum / totals[name] for name, term in terms.items()]).sum()
        part.backward()
        value += part.item()
    return value, gradient(models["policy"])


def gradient(model: nn.Module) -> Tensor:
    """The gradients of all parameters that have one, in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check_same(found: Stepped, expected: Stepped, what: str = "", bound: float = 1e-5) -> None:
    """Value and gradient within `bound` of the expected ones, as |a - b| / |b|. Raises AssertionError with the figures."""
    apart = torch.linalg.norm(found[1] - expected[1]) / torch.linalg.norm(expected[1])
    close = abs(found[0] - expected[0]) <= bound * abs(expected[0]) + 1e-6
    need(close, f"{what}: the value is {found[0]:.8g} and not {expected[0]:.8g}")
    need(bool(apart <= bound), f"{what}: the gradient is {float(apart):.1e} away")  # nan: there is none
