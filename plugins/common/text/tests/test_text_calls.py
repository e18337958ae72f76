"""An answer on its way: what is told of it is how it begins, all but what may be a call, at the cost of what is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tk_text.calls import CallFormat, SaidReader, said

CALL = '{"name": "weather", "arguments": {"city": "Zürich"}}'
FORMS = {
    "tags": CallFormat("<tool_call>"),
    "special": CallFormat("<|im_start|>call"),
    "object": CallFormat(""),
    "none": None,
}
PIECES = [
    "Plain",
    " words",
    "\n\n",
    " ",
    "😀",
    "<",
    "<tool",
    "_call>",
    "<tool_call>",
    "<|im_start|>",
    "call",
    "{",
    CALL,
]


@pytest.mark.parametrize("form", FORMS)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_what_is_told_on_the_way_is_how_the_answer_begins(
    smollm2: Any, form: str, pieces: list[str], together: int
) -> None:
    end = smollm2.convert_tokens_to_ids("<|im_end|>")
    ids = [*smollm2("".join(pieces), add_special_tokens=False)["input_ids"], end]
    whole = said(smollm2, ids, (end,), FORMS[form]).text
    reader, told = SaidReader(smollm2, (end,), FORMS[form]), ""
    for start in range(0, len(ids), together):
        told += reader.push(ids[start : start + together])
        assert whole.startswith(told)
    if form == "none" or (form == "tags" and "<" not in "".join(pieces)):
        assert told.rstrip() == whole.rstrip(), "nothing else is held back"


@pytest.mark.parametrize("form", FORMS)
def test_reading_an_answer_costs_what_is_new(smollm2: Any, form: str) -> None:
    class Counting:
        decoded = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(smollm2, name)

        def decode(self, ids: Sequence[int], **options: Any) -> str:
            self.decoded += len(ids)
            return str(smollm2.decode(ids, **options))

    tokenizer = Counting()
    ids = smollm2("One more word. " * 500, add_special_tokens=False)["input_ids"]
    reader = SaidReader(tokenizer, (), FORMS[form])
    told = "".join(reader.push([token]) for token in ids)
    assert len(told) > 7000
    assert tokenizer.decoded < 8 * len(ids)
