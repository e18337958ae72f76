"""Calls of tools are read back from the tokens that the families' templates write them as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tk.sample import Message, Sample, ToolCall
from tk_jinja.template import JinjaTemplate

CALLS = (ToolCall("weather", {"city": "Zürich", "days": 3}), ToolCall("time", {}))
ASKED = Message("user", "What is it like?")
JSON = ["qwen3", "qwen2_5", "qwen3_instruct_2507", "llama3_1", "llama3_2"]
"""Families that write calls as JSON."""


def answer_ids(tokenizer: Any, said: Message) -> list[int]:
    """What a model would have said to be written so: tokens after the prompt, up to the one that ends the turn."""
    template = JinjaTemplate(tokenizer=tokenizer)
    prompt = tokenizer.decode(template.encode([Sample((ASKED,))], generation=True)[0].ids)
    whole = tokenizer.decode(template.encode([Sample((ASKED, said))])[0].ids)
    assert whole.startswith(prompt)
    ids = tokenizer(whole.removeprefix(prompt), add_special_tokens=False)["input_ids"]
    end = next(i for i, token in enumerate(ids) if token in template.stop_ids())
    return ids[: end + 1]


@pytest.mark.parametrize("name", JSON)
def test_calls_are_read_back(name: str, family: Callable[..., Any]) -> None:
    tokenizer = family(name, "<|im_end|>" if "qwen" in name else "<|eot_id|>")
    template = JinjaTemplate(tokenizer=tokenizer)
    several = CALLS[:1] if "llama" in name else CALLS  # these write one call an answer
    ids = answer_ids(tokenizer, Message("assistant", "", several, loss=0.0))
    found = template.read(ids)
    assert (found.role, found.text) == ("assistant", "")
    assert [(call.name, dict(call.arguments)) for call in found.tool_calls] == [
        (call.name, dict(call.arguments)) for call in several
    ]
    assert template.read(ids[:-1]).tool_calls == found.tool_calls, "an answer that was cut off after its last brace"
    half = template.read(ids[:8])
    assert not half.tool_calls
    assert half.text


def test_what_is_said_before_calls_is_content(family: Callable[..., Any]) -> None:
    tokenizer = family("qwen2_5", "<|im_end|>")
    found = JinjaTemplate(tokenizer=tokenizer).read(
        answer_ids(tokenizer, Message("assistant", "Let me see {x}.", CALLS, loss=0.0))
    )
    assert found.text == "Let me see {x}."
    assert len(found.tool_calls) == 2


@pytest.mark.parametrize("text", ["Plain words.", "Braces {like} these", '{"answer": 42}', "<tool_call>\nnonsense"])
def test_other_text_stays_text(text: str, family: Callable[..., Any]) -> None:
    for name in ("qwen2_5", "llama3_1", "gemma"):
        tokenizer = family(name, "<|im_end|>")
        template = JinjaTemplate(tokenizer=tokenizer)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert template.read([*ids, template.stop_ids()[0]]) == Message("assistant", text)


def test_a_template_without_tools_reads_text(smollm2: Any) -> None:
    template = JinjaTemplate(tokenizer=smollm2)
    ids = smollm2('{"name": "weather", "arguments": {}}', add_special_tokens=False)["input_ids"]
    assert not template.read(ids).tool_calls
