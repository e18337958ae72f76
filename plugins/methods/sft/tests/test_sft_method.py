"""Samples to examples: which tokens are trained, what is counted, and what becomes of long rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tk.contracts import Encoding, Example, Layout, Limit, Medium, Stat
from tk.errors import DataError, TkError, UsageError
from tk.sample import Message, Sample
from tk_lm_losses.losses import CausalLm, Dft
from tk_sft.method import Pretraining, Sft
from tk_sft.options import SftOptions
from tk_tensor.cut import cut

NO_LIMIT = Limit()


class Letters:
    """A template of one token a letter, which honours loss flags as every template does."""

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        return [self._one(s) for s in samples]

    def _one(self, sample: Sample) -> Encoding:
        if sample.text:
            return Encoding([ord(c) for c in sample.text] + [0], [1.0] * (len(sample.text) + 1))
        ids, weights = [1], [0.0]
        for message in sample.messages:
            weight = float(message.role == "assistant") if message.loss is None else message.loss
            ids += [ord(c) for c in message.text]
            weights += [weight] * len(message.text)
        return Encoding(ids, weights)


class Counted:
    """A loss by sequence."""

    unit: ClassVar[str] = "sequence"
    wants: ClassVar[tuple[Stat, ...]] = (Stat("logps"), Stat("entropy"))

    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        return reduce(stats["logps"])


CHAT = Sample(
    messages=(Message("user", "ab"), Message("assistant", "cde"), Message("user", "f"), Message("assistant", "gh")),
    origin="chat.jsonl:7",
)


def sft(train_on: Any = "all-assistant", **losses: Any) -> Sft:
    return Sft(SftOptions(train_on), losses or {"causal-lm": (1.0, CausalLm())})


def trained(examples: Sequence[Example]) -> list[str]:
    return ["".join(chr(i) for i, w in zip(e.values["ids"], e.values["weights"], strict=True) if w) for e in examples]


@pytest.mark.parametrize(("train_on", "letters"), [("all-assistant", "cdegh"), ("last", "gh"), ("all", "abcdefgh")])
def test_the_option_says_which_messages_are_trained(train_on: str, letters: str) -> None:
    (examples,) = sft(train_on).encode([CHAT], Letters(), NO_LIMIT)
    assert trained(examples) == [letters]


def test_the_last_round_holds_tool_calls_and_their_results_answers() -> None:
    turns = (*CHAT.messages[:3], Message("assistant", "T"), Message("tool", "r"), Message("assistant", "z"))
    (examples,) = sft("last").encode([Sample(messages=turns)], Letters(), NO_LIMIT)
    assert trained(examples) == ["Tz"]


@pytest.mark.parametrize("train_on", ["all-assistant", "last", "all"])
def test_flags_in_the_data_have_the_last_word(train_on: str) -> None:
    turns = (
        Message("user", "ab", loss=0.5),
        Message("assistant", "c", loss=2.0),
        Message("user", "d"),
        Message("assistant", "e", loss=0.0),
    )
    (examples,) = sft(train_on).encode([Sample(messages=turns)], Letters(), NO_LIMIT)
    weights = dict(zip("?abcde", examples[0].values["weights"].tolist(), strict=True))
    assert (weights["a"], weights["c"], weights["e"]) == (0.5, 2.0, 0.0)


def test_examples_count_for_each_loss_by_its_unit() -> None:
    method = sft(**{"causal-lm": (0.8, CausalLm()), "counted": (0.2, Counted())})
    (examples,) = method.encode([CHAT], Letters(), NO_LIMIT)
    assert examples[0].weights == {"causal-lm": 5.0, "counted": 1.0}
    assert (examples[0].length, examples[0].origin) == (9, "chat.jsonl:7")
    assert {s.name for s in method.passes(None)[0].wants} == {"logps", "entropy"}  # type: ignore[arg-type]
    assert len(method.passes(None)) == 1  # type: ignore[arg-type]


def test_a_first_token_is_never_counted() -> None:
    (examples,) = Pretraining({"x": (1.0, CausalLm())}).encode([Sample(text="abc")], Letters(), NO_LIMIT)
    assert examples[0].values["weights"].tolist() == [0, 1, 1, 1]
    assert examples[0].weights == {"x": 3.0}


def test_pretraining_trains_every_token_of_a_conversation() -> None:
    (examples,) = Pretraining({"x": (1.0, CausalLm())}).encode([CHAT], Letters(), NO_LIMIT)
    assert trained(examples) == ["abcdefgh"]


@pytest.mark.parametrize(
    "sample", [Sample(messages=(Message("user", "ab"),), origin="a.jsonl:3"), Sample(origin="a.jsonl:3")]
)
def test_a_row_without_a_trained_token_is_named(sample: Sample) -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:3: no token is trained"):
        sft().encode([sample], Letters(), NO_LIMIT)


def test_a_row_too_long_is_an_error_that_tells_its_length_and_the_mend() -> None:
    with pytest.raises(DataError, match=r"^chat\.jsonl:7: 9 tokens, longer than data\.max_length 8.*data\.truncation"):
        sft().encode([CHAT], Letters(), Limit(8))


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(Limit(8, "drop"), []), (Limit(4, "left"), ["gh"]), (Limit(5, "right"), ["cd"]), (Limit(9), ["cdegh"])],
)
def test_longer_rows_are_dropped_or_cut(limit: Limit, kept: list[str]) -> None:
    (examples,) = sft().encode([CHAT], Letters(), limit)
    assert trained(examples) == kept
    assert all(e.length <= 9 and e.weights["causal-lm"] == len(k) for e, k in zip(examples, kept, strict=True))


def test_a_cut_that_leaves_nothing_to_train_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^chat\.jsonl:7: cut from 9 to 3 tokens, no trained token is left"):
        sft().encode([CHAT], Letters(), Limit(3, "right"))


@given(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=2, max_size=40), st.integers(2, 12))
@settings(max_examples=100, deadline=None)
def test_split_blocks_predict_every_trained_token_exactly_once(weights: list[float], most: int) -> None:
    encoding = Encoding(range(len(weights)), weights)
    if not any(weights[1:]):
        return
    blocks = cut(encoding, Limit(most, "split"), "x")
    assert all(2 <= len(block) <= most and (np.diff(block.ids) == 1).all() for block in blocks)
    predicted = [(int(i), float(w)) for b in blocks for i, w in zip(b.ids[1:], b.weights[1:], strict=True) if w]
    assert predicted == [(i, w) for i, w in enumerate(weights) if w and i]


def test_losses_that_do_not_fit_are_refused() -> None:
    pairs = type("Pairs", (Counted,), {"unit": "pair"})()
    with pytest.raises(UsageError, match="counts by pair"):
        sft(dpo=(1.0, pairs))
    with pytest.raises(UsageError, match="none is chosen"):
        Sft(SftOptions(), {})
    cold = type("Cold", (Counted,), {"wants": (Stat("logps", 0.5),)})()
    with pytest.raises(UsageError, match="different temperatures"):
        sft(a=(1.0, Dft()), b=(1.0, cold))


def test_a_loss_over_the_window_makes_the_method_one() -> None:
    wide = type("Wide", (Counted,), {"scope": "window"})()
    assert sft().scope == "row"
    assert sft(a=(1.0, Dft()), b=(1.0, wide)).scope == "window"


def test_media_stay_with_their_tokens_and_are_never_cut() -> None:
    class Pictures(Letters):
        def _one(self, sample: Sample) -> Encoding:
            return Encoding([7, 1, 1, 8], [0.0, 0.0, 0.0, 1.0], (Medium("image", "a.png", start=1, length=2),))

    (((example,),)) = sft().encode([CHAT], Pictures(), NO_LIMIT)
    assert [(m.start, m.length) for m in example.media] == [(1, 2)]
    (((example,),)) = sft().encode([CHAT], Pictures(), Limit(3, "left"))
    assert [m.start for m in example.media] == [0]
    with pytest.raises(DataError, match="would be cut"):
        sft().encode([CHAT], Pictures(), Limit(2, "left"))
    with pytest.raises(TkError, match="takes no image"):
        sft().collate([[example]], Layout(0))
