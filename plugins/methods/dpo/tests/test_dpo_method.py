"""What `dpo` makes of pairs, which models it asks for, and what it says of bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tk.contracts import Encoding, Layout, Limit
from tk.errors import DataError, UsageError
from tk.sample import Message, Sample
from tk_dpo.method import Dpo
from tk_dpo.options import DpoOptions
from tk_lm_losses.losses import CausalLm
from tk_preference_losses.sigmoid import Sigmoid
from tk_tensor.collate import reduce_for
from tk_tensor.preferences import tree_of


class Letters:
    """A template of one token a letter; prompts end with a token of their own."""

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        found = []
        for sample in samples:
            ids: list[int] = []
            weights: list[float] = []
            for message in sample.messages:
                letters = [ord(letter) for letter in message.text] + ([1] if message.role == "user" else [])
                trained = message.role == "assistant" and message.loss is None
                ids, weights = ids + letters, weights + [float(trained)] * len(letters)
            found.append(Encoding(ids, weights))
        return found


def pair(prompt: str, chosen: str, rejected: str) -> Sample:
    return Sample(
        messages=(Message("user", prompt), Message("assistant", chosen)),
        rejected=(Message("assistant", rejected),) if rejected else (),
        shared=1,
        origin="rows.jsonl:7",
    )


@pytest.fixture
def method() -> Dpo:
    return Dpo(DpoOptions(), {"sigmoid": (1.0, Sigmoid()), "sft": (0.5, CausalLm())})


def encode(method: Dpo, sample: Sample, limit: Limit | None = None) -> list[Any]:
    (found,) = method.encode([sample], Letters(), limit or Limit())  # type: ignore[arg-type]
    return list(found)


def text(ids: np.ndarray) -> str:
    return "".join(map(chr, ids)).replace("\x01", "|")


def parts(example: Any) -> list[str]:
    """Prompt, chosen and rejected answer."""
    tree = tree_of(example)
    return [text(tree.trunk.ids), *(text(branch.ids) for branch in tree.branches)]


def test_a_pair_is_its_prompt_and_two_answers(method: Dpo) -> None:
    (example,) = encode(method, pair("abc", "xy", "xyz"))
    assert parts(example) == ["abc|", "xy", "xyz"]
    assert example.length == 9
    assert example.weights == {"sigmoid": 1.0, "sft": 2.0}
    batch = method.collate([[example]], Layout(0))
    assert (batch.rows, batch.weights) == (2, example.weights)
    assert text(batch.fields["targets"].numpy()) == "xyxyz"


def test_an_assistants_turn_of_the_prompt_is_not_trained(method: Dpo) -> None:
    said = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "x"))
    (example,) = encode(method, Sample(messages=said, rejected=(Message("assistant", "y"),), shared=3))
    assert parts(example)[0] == "a|bc|"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (pair("a", "x", ""), "no rejected answer"),
        (pair("a", "x", "x"), "chosen and rejected are the same"),
        (pair("a", "", "x"), "no token of the chosen answer is trained"),
    ],
)
def test_bad_pairs_are_told_with_their_row(method: Dpo, sample: Sample, message: str) -> None:
    with pytest.raises(DataError, match=f"^rows.jsonl:7: {message}"):
        encode(method, sample)


def test_a_long_pair_is_cut_as_asked(method: Dpo) -> None:
    long = pair("abcdefgh", "xyz", "u")

    def cut(truncation: Any, most: int) -> list[str]:
        (example,) = encode(method, long, Limit(most, truncation))
        return parts(example)

    assert cut("left", 7) == ["fgh|", "xyz", "u"]
    assert cut("right", 11) == ["abcdefgh|", "xy", "u"]
    assert encode(method, long, Limit(7, "drop")) == []
    with pytest.raises(DataError, match="12 tokens .9 of them the prompt., longer than data.max_length 7"):
        encode(method, long, Limit(7))
    with pytest.raises(DataError, match="rows.jsonl:7"):
        encode(method, long, Limit(9, "right"))
    with pytest.raises(DataError, match="rows.jsonl:7"):
        encode(method, long, Limit(3, "left"))
    with pytest.raises(UsageError, match="cannot be split"):
        encode(method, long, Limit(7, "split"))


def test_the_reference_is_the_untuned_model_another_checkpoint_or_none() -> None:
    sigmoid = {"sigmoid": (1.0, Sigmoid())}
    _, reference = Dpo(DpoOptions(), sigmoid).roles()
    assert (reference.of, reference.adapter_off, reference.trainable) == ("policy", True, False)
    _, reference = Dpo(DpoOptions("other"), sigmoid).roles()
    assert (reference.of, reference.checkpoint) == ("", "other")
    (policy,) = Dpo(DpoOptions(), {"sft": (1.0, CausalLm())}).roles()
    assert policy.trainable


def test_the_metrics_are_of_all_pairs(method: Dpo) -> None:
    examples = [encode(method, pair("a", "x", "yz"))[0], encode(method, pair("b", "uv", "w"))[0]]
    batch = method.collate([[e] for e in examples], Layout(0))
    policy = torch.tensor([-1.0, -2.0, -2.0, -3.0, -1.0, -1.5])  # x | yz | uv | w
    reference = torch.tensor([-2.0, -2.0, -1.5, -1.0, -1.0, -2.0])
    outputs = {"policy": {"logps": policy}, "reference": {"logps": reference}}
    metrics = method.loss(outputs, batch, reduce_for(batch)).metrics
    ratios = {name: float(value) / weight for name, (value, weight) in metrics.items()}
    assert ratios["accuracy"] == 0.5  # +1 against -0.5; -2 against +0.5
    assert ratios["margin"] == pytest.approx((1.5 - 2.5) / 2)
    assert ratios["chosen_logps"] == pytest.approx((-1 - 4) / 2)
    assert ratios["rejected_logps"] == pytest.approx((-4 - 1.5) / 2)
