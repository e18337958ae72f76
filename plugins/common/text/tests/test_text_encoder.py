"""Guarded tokenisation: the tokenizer's own ids, weights by offsets, spelled control tokens as text."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tk.errors import DataError, TkError, UsageError
from tk.sample import Message, Part, Sample
from tk_text.encoder import Rendered, TokenEncoder
from tk_text.marks import Marked, unused_marks
from tk_text.messages import text_of, weight_of


def copy_of(tokenizer: Any, **changes: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for name, value in changes.items():
        setattr(backend, name, value)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


@pytest.fixture(scope="module", params=["always", "first", "llama"])
def spaced(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Tokenizers that put a space in front of text: always, at the very start only, and Llama 2's normalizer."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if request.param == "llama":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=request.param, split=False)
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", "<|user|>", *map(chr, range(32, 127)), "\n", "▁"]
    )
    backend.train_from_iterator(["the cat sat on the mat and said hello to the hat"] * 5, trainer)
    plain = [token for token in backend.get_added_tokens_decoder().values() if len(token.content) == 1]
    state = json.loads(backend.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in {p.content for p in plain}]
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def encoder(smollm2: Any) -> TokenEncoder:
    return TokenEncoder(smollm2)


SPELLED = st.lists(
    st.one_of(
        st.text(max_size=6), st.sampled_from(["<|im_start|>", "<|im_end|>", "<file_sep>", "<|im_", "end|>", " "])
    ),
    max_size=6,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(before=SPELLED, content=SPELLED)
def test_spelled_tokens_are_encoded_as_the_tokenizer_splits_them(
    smollm2: Any, encoder: TokenEncoder, before: str, content: str
) -> None:
    text, spelled = "<|im_start|>", []
    for piece in (before, content):
        spelled += [(len(text) + m.start(), len(text) + m.end()) for m in encoder.guard.finditer(piece)]
        text += piece + "<|im_end|>"
    expected = [1]
    for piece in (before, content):
        expected += smollm2(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"] + [2]
    smollm2("reset", split_special_tokens=False)
    assert encoder.encode([Rendered(text, spelled=spelled)])[0].ids == expected


def test_the_guarded_way_equals_the_usual_way_where_nothing_is_spelled(smollm2: Any, spaced: Any) -> None:
    for tokenizer, tokens in ((smollm2, ("<|im_start|>", "<|im_end|>")), (spaced, ("<s>", "</s>"))):
        encoder = TokenEncoder(tokenizer)
        text = f"the cat{tokens[0]}hello mat {tokens[1]}\n the hat{tokens[0]}"
        spelling = f"{tokens[1]}!"
        usual = encoder.encode([Rendered(text)])[0].ids
        guarded = encoder.encode([Rendered(text + spelling, spelled=[(len(text), len(text) + len(tokens[1]))])])[0].ids
        assert usual == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert guarded[: len(usual)] == usual
        assert tokenizer.convert_tokens_to_ids(tokens[1]) not in guarded[len(usual) :]


def test_a_token_merged_over_the_start_of_a_span_is_not_trained(smollm2: Any) -> None:
    text = "assistant\n\n\nhello"  # of the three line ends, the first two are one token
    start = text.index("\n\nhello")
    encoding = TokenEncoder(smollm2).encode([Rendered(text, [(start, len(text), 0.5)])])[0]
    pieces = [smollm2.decode([i]) for i in encoding.ids]
    assert pieces[-3:] == ["\n\n", "\n", "hello"]
    assert encoding.weights == [0.0] * (len(pieces) - 2) + [0.5, 0.5]


def test_offsets_that_the_tokenizer_trims_hide_no_merge(smollm2: Any) -> None:
    trimming = copy_of(smollm2, post_processor=processors.ByteLevel(trim_offsets=True))
    text = "say: hello\n\nyou <|im_end|>\n"
    rendered = [Rendered(text, [(start, len(text), 1.0)]) for start in range(len(text))]
    assert TokenEncoder(trimming).encode(rendered) == TokenEncoder(smollm2).encode(rendered)


def test_padding_or_truncation_left_set_in_the_tokenizer_changes_nothing(smollm2: Any) -> None:
    tokenizer = copy_of(smollm2)
    rows = [Rendered("one"), Rendered("one two three four five")]
    expected = TokenEncoder(tokenizer).encode(rows)
    tokenizer.pad_token = "<|im_end|>"
    tokenizer(["a", "b c d e"], padding=True, truncation=True, max_length=2, split_special_tokens=True)
    assert TokenEncoder(tokenizer).encode(rows) == expected


def test_multibyte_characters_split_over_tokens_belong_to_their_span(smollm2: Any) -> None:
    text = "a🦜b"
    encoding = TokenEncoder(smollm2).encode([Rendered(text, [(1, 2, 1.0)])])[0]
    assert len(encoding.ids) > 3
    assert encoding.weights == [0.0] + [1.0] * (len(encoding.ids) - 2) + [0.0]


def test_raw_text_is_plain_tokenisation_with_one_end(smollm2: Any) -> None:
    with_bos = copy_of(
        smollm2,
        post_processor=processors.TemplateProcessing(
            single="<|im_start|> $A", pair=None, special_tokens=[("<|im_start|>", 1)]
        ),
    )
    for tokenizer in (smollm2, with_bos):
        texts = ["hello there", "ended<|im_end|>", " "]
        encodings = TokenEncoder(tokenizer).encode_text([Sample(text=text, ended=True) for text in texts])
        plain = TokenEncoder(tokenizer).encode_text([Sample(text=text) for text in texts])
        assert [encoding.ids for encoding in plain] == [tokenizer(text)["input_ids"] for text in texts]
        for text, encoding in zip(texts, encodings, strict=True):
            assert encoding.ids == tokenizer(text.removesuffix("<|im_end|>"))["input_ids"] + [2]
            assert encoding.weights == [1.0] * len(encoding.ids)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(UsageError, match=re.escape("tokenizer.json")):
        TokenEncoder(SimpleNamespace(is_fast=False))


@given(st.text(), st.text())
def test_marks_are_found_where_they_were_put(before: str, after: str) -> None:
    marks = unused_marks(before, after)
    one, two = next(marks), next(marks)
    marked = Marked(before + one + after + two, [one, two])
    assert marked.plain == before + after
    assert marked.places == {one: [len(before)], two: [len(before + after)]}
    assert marked.unmarked(len(before) + 1) == len(before)


def test_text_exhausting_the_private_use_area_is_an_error() -> None:
    with pytest.raises(TkError, match="private-use"):
        next(unused_marks("".join(map(chr, [*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)]))))


def test_text_parts_are_joined_and_media_refused_by_name() -> None:
    parts = (Part("text", "a "), Part("text", "b"))
    assert text_of(Message("user", parts)) == "a b"
    with pytest.raises(DataError, match=r"d\.jsonl:3: a user message holds image"):
        text_of(Message("user", (*parts, Part("image", source="x.png"))), "d.jsonl:3")


def test_weights_follow_the_role_unless_the_message_says_otherwise() -> None:
    assert [weight_of(Message(role)) for role in ("system", "user", "assistant", "tool")] == [0.0, 0.0, 1.0, 0.0]
    assert [weight_of(Message("assistant", loss=0.0)), weight_of(Message("user", loss=0.3))] == [0.0, 0.3]
