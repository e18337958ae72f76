"""The reward `format`: the R1 form by default, any regular expression on request."""

import asyncio
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tk.contracts import Scored
from tk.errors import UsageError
from tk.sample import Message
from tk_format.options import FormatOptions
from tk_format.reward import Format


def score(completions, **options):
    messages = [c if isinstance(c, Message) else Message("assistant", c) for c in completions]
    return list(
        asyncio.run(Format(FormatOptions(**options))(Scored(prompts=[()] * len(messages), completions=messages)))
    )


@pytest.mark.parametrize(
    "text",
    [
        "<think>reasons</think>answer",
        "<think>\nlines\nof reasons\n</think>\n\nan\nanswer\n",
        "\n<think>reasons</think> <answer>4</answer>",
        "<think>a < b > c</think>4",
    ],
)
def test_reasoning_and_then_an_answer_is_the_default_form(text):
    assert score([text]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "answer",
        "<think>never ends",
        "<think>no answer</think>",
        "<think>no answer</think>  \n",
        "<think></think>answer",
        "before <think>reasons</think>answer",
        "<think>one</think>answer<think>two</think>answer",
        "<think>a<think>b</think></think>answer",
        "reasons</think>answer",
    ],
)
def test_another_form_scores_zero(text):
    assert score([text]) == [0.0]


def test_reasoning_kept_apart_from_the_text_counts_as_reasoning():
    assert score([Message("assistant", "4", reasoning="2+2"), Message("assistant", "4")]) == [1.0, 0.0]


def test_match_says_how_much_must_match():
    texts = ["ab", "abc", "cab"]
    assert score(texts, pattern="ab", match="full") == [1.0, 0.0, 0.0]
    assert score(texts, pattern="ab", match="start") == [1.0, 1.0, 0.0]
    assert score(texts, pattern="ab", match="search") == [1.0, 1.0, 1.0]


def test_flags_are_options():
    assert score(["AB"], pattern="ab", ignore_case=True) == [1.0]
    assert score(["a\nb"], pattern="a.b", dot_all=False) == [0.0]
    assert score(["a\nb"], pattern="^b$", match="search", multi_line=True) == [1.0]


def test_an_invalid_pattern_is_a_usage_error_that_shows_it():
    with pytest.raises(
        UsageError, match=r"rewards\.format\.pattern: '\(unclosed' is no regular expression: missing \)"
    ):
        Format(FormatOptions(pattern="(unclosed"))
    with pytest.raises(msgspec.ValidationError, match=r"match"):
        msgspec.convert({"match": "sometimes"}, FormatOptions)


def test_the_default_pattern_reads_long_completions_in_linear_time():
    began = time.monotonic()
    assert score(["<think>" + "reason < " * 20_000 + "</think>" + "a" * 10_000, "<think>" * 20_000]) == [1.0, 0.0]
    assert time.monotonic() - began < 5


@given(st.lists(st.text(max_size=80) | st.from_regex(r"<think>[ab]+</think>[ab]+", fullmatch=True), max_size=6))
def test_every_completion_gets_zero_or_one(texts):
    scores = score(texts)
    assert len(scores) == len(texts)
    assert set(scores) <= {0.0, 1.0}


@given(st.text(min_size=1, max_size=40).filter(lambda t: "think>" not in t and t.strip()))
def test_any_text_can_be_reasoning_and_answer(text):
    assert score([f"<think>{text}</think>{text}"]) == [1.0]
