"""The bytes of single tokens: joined they are the text, also of tokens that are parts of characters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tk_text.stream import _BYTES, bytes_of


def test_bytes_are_written_as_in_transformers() -> None:
    assert {byte: character for character, byte in _BYTES.items()} == bytes_to_unicode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=100, deadline=None)
def test_bytes_of_tokens_make_up_the_text(smollm2: Any, text: str) -> None:
    ids = smollm2(text, add_special_tokens=False)["input_ids"]
    assume(smollm2.decode(ids, clean_up_tokenization_spaces=False) == text)  # rare bytes have no token
    assert b"".join(bytes_of(smollm2, token) or b"?" for token in ids) == text.encode()


@pytest.mark.parametrize(
    ("token", "expected"), [("<0xF0>", b"\xf0"), ("<0x41>", b"A"), ("w", b"w"), ("\ufffd\u4e00", None)]
)
def test_bytes_that_stand_in_for_missing_tokens(token: str, expected: bytes | None) -> None:
    vocabulary = {text: i for i, text in enumerate(["<0xF0>", "<0x41>", "w", "\ufffd\u4e00"])}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert bytes_of(tokenizer, vocabulary[token]) == expected
