"""What is trained of a conversation, for the chat templates of many model families."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from tk.errors import DataError
from tk.sample import Message, Sample, ToolCall
from tk_jinja.options import JinjaOptions
from tk_jinja.template import JinjaTemplate
from tk_text.testing import family_template

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look.",
            "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "What."}}},
        },
    },
)


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str = "", **fields: Any) -> Message:
    return Message("assistant", text, **fields)


CHATS = {
    "two": (user("a b"), answer("c d"), user("e f"), answer("g h")),
    "system": (Message("system", "be nice"), user("a"), answer("b")),
    "space": (user("x\n"), answer("\n\n  y z \n")),
    "empty": (user("x"), answer(), user("y"), answer("  ")),
    "consecutive": (user("a"), answer("b"), answer("c")),
    "reasoned": (user("a"), answer("b", reasoning="why"), user("c"), answer("d", reasoning="how")),
    "thought": (user("a"), answer("<think>\nwhy\n</think>\n\nb"), user("c"), answer("<think>\nhow\n</think>\n\nd")),
    "tool": (
        user("a"),
        answer(tool_calls=(ToolCall("look", {"q": "x"}, "call00001"),)),
        Message("tool", "result", tool_call_id="call00001", name="look"),
        answer("done"),
    ),
    "spelled": (user("<|im_end|><|end|>"), answer("b <|im_end|> c<|end|>")),
    "prompt": (user("only asked"),),
}


def trained(template: JinjaTemplate, tokenizer: Any, chat: str) -> list[str]:
    """The runs of trained tokens, as text."""
    sample = Sample(messages=CHATS[chat], tools=TOOLS if chat == "tool" else (), origin="rows.jsonl:7")
    encoding = template.encode([sample])[0]
    runs: list[list[int]] = [[]]
    for i, weight in zip(encoding.ids, encoding.weights, strict=True):
        runs[-1].append(i) if weight else runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


CHATML_END = "<|im_end|>"
EMPTY_THINKING = "<think>\n\n</think>\n\n"
EXPECTED = {
    "qwen3": {
        "two": ["c d" + CHATML_END, EMPTY_THINKING + "g h" + CHATML_END],
        "space": [EMPTY_THINKING + "  y z \n" + CHATML_END],
        "empty": [CHATML_END, EMPTY_THINKING + "  " + CHATML_END],
        "consecutive": ["b" + CHATML_END, EMPTY_THINKING + "c" + CHATML_END],
        "reasoned": ["b" + CHATML_END, "<think>\nhow\n</think>\n\nd" + CHATML_END],
        "thought": ["b" + CHATML_END, "<think>\nhow\n</think>\n\nd" + CHATML_END],
        "tool": [
            '<tool_call>\n{"name": "look", "arguments": {"q": "x"}}\n</tool_call>' + CHATML_END,
            EMPTY_THINKING + "done" + CHATML_END,
        ],
        "spelled": [EMPTY_THINKING + "b <|im_end|> c<|end|>" + CHATML_END],
        "prompt": [],
    },
    "qwen2_5": {
        "two": ["c d" + CHATML_END, "g h" + CHATML_END],
        "system": ["b" + CHATML_END],
        "tool": [
            '<tool_call>\n{"name": "look", "arguments": {"q": "x"}}\n</tool_call>' + CHATML_END,
            "done" + CHATML_END,
        ],
        "thought": ["<think>\nwhy\n</think>\n\nb" + CHATML_END, "<think>\nhow\n</think>\n\nd" + CHATML_END],
    },
    "qwen3_6": {  # its generation prompt opens the thinking, which earlier answers are stripped of
        "two": ["c d" + CHATML_END, "\n</think>\n\ng h" + CHATML_END],
        "reasoned": ["b" + CHATML_END, "how\n</think>\n\nd" + CHATML_END],
    },
    "llama3": {
        "two": ["c d<|eot_id|>", "g h<|eot_id|>"],
        "space": ["y z<|eot_id|>"],
        "empty": ["<|eot_id|>", "<|eot_id|>"],
        "tool": DataError,
    },
    "llama3_1": {"tool": ['{"name": "look", "parameters": {"q": "x"}}<|eot_id|>', "done<|eot_id|>"]},
    "gemma": {
        "two": ["c d<end_of_turn>", "g h<end_of_turn>"],
        "space": ["y z<end_of_turn>"],
        "system": DataError,
        "consecutive": DataError,
    },
    "phi3": {
        "two": ["c d<|end|>", "g h<|end|>"],
        "space": ["\n  y z \n<|end|>"],
        "spelled": ["b <|im_end|> c<|end|><|end|>"],
    },
    "cohere2": {"two": [f"{text}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>" for text in ("c d", "g h")]},
    "glm4moe": {"two": ["\n<think></think>\nc d", "\n<think></think>\ng h"]},  # it writes no end of turn
    "gptoss": {
        "two": ["<|channel|>final<|message|>c d<|end|>", "<|channel|>final<|message|>g h<|return|>"],
        "reasoned": [
            "<|channel|>final<|message|>b<|end|>",
            "<|channel|>analysis<|message|>how<|end|><|start|>assistant<|channel|>final<|message|>d<|return|>",
        ],
        "tool": [
            ' to=functions.look<|channel|>commentary json<|message|>{"q": "x"}<|call|>',
            "<|channel|>final<|message|>done<|return|>",
        ],
    },
    "deepseek_r1_distill": {  # its generation prompt opens a thinking that it removes from answers
        "two": ["c d<｜end▁of▁sentence｜>", "g h<｜end▁of▁sentence｜>"],
        "thought": DataError,
        "tool": DataError,
    },
    "deepseekv3": {
        "tool": [
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{"q": "x"}\n```'
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
            "done<｜end▁of▁sentence｜>",
        ]
    },
    "gemma4": {"two": ["c d<turn|>", "g h<turn|>"], "tool": DataError},  # its tool results stand inside the answer
}
EOS = {"gptoss": "<|return|>", "phi3": "<|endoftext|>", "cohere2": "<|END_OF_TURN_TOKEN|>", "gemma": "<end_of_turn>",
       "gemma4": "<turn|>", "llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>", "glm4moe": "<|endoftext|>",
       "deepseekv3": "<｜end▁of▁sentence｜>", "deepseek_r1_distill": "<｜end▁of▁sentence｜>"}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_trained_text_of_families(name: str, family: Callable[..., Any]) -> None:
    tokenizer = family(name, EOS.get(name, CHATML_END))
    template = JinjaTemplate(tokenizer=tokenizer)
    for chat, expected in EXPECTED[name].items():
        if expected is DataError:
            with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*--template chatml"):
                trained(template, tokenizer, chat)
        else:
            assert trained(template, tokenizer, chat) == expected, chat


@pytest.mark.parametrize("name", ["qwen3_training", "qwen2_5_training", "llama3_training", "gemma_training"])
def test_generation_blocks_say_the_same_as_in_transformers(name: str, family: Callable[..., Any]) -> None:
    tokenizer = family(name, CHATML_END)
    template = JinjaTemplate(tokenizer=tokenizer)
    for chat in ("two", "thought"):
        dicts = [{"role": message.role, "content": message.content} for message in CHATS[chat]]
        own = tokenizer.apply_chat_template(dicts, return_dict=True, return_assistant_tokens_mask=True)
        encoding = template.encode([Sample(messages=CHATS[chat])])[0]
        assert encoding.ids == own["input_ids"]
        assert encoding.weights == own["assistant_masks"]
        assert any(encoding.weights)


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5_vl", "llama3", "gemma3", "phi3", "lfm2", "gptoss", "cohere"])
def test_found_spans_lie_in_hand_written_generation_blocks(name: str, family: Callable[..., Any]) -> None:
    """trl's training variants are the same templates with blocks put in by hand; theirs include headers or line ends."""
    tokenizer, marked = family(name, CHATML_END), family(name, CHATML_END)
    marked.chat_template = family_template(f"{name}_training")
    found, by_hand = JinjaTemplate(tokenizer=tokenizer), JinjaTemplate(tokenizer=marked)
    for chat in ("two", "space", "empty"):
        ours = found.encode([Sample(messages=CHATS[chat])])[0]
        theirs = by_hand.encode([Sample(messages=CHATS[chat])])[0]
        if ours.ids == theirs.ids:  # some variants also write earlier thinking
            assert all(b for a, b in zip(ours.weights, theirs.weights, strict=True) if a)
            extra = [i for i, a, b in zip(ours.ids, ours.weights, theirs.weights, strict=True) if b and not a]
            assert not re.search(r"[yz]|c d|g h", tokenizer.decode(extra))


def test_weights_of_messages_are_their_own(smollm2: Any) -> None:
    messages = (
        Message("system", " be nice ", loss=0.25),
        Message("user", "ask"),
        answer("one", loss=0.5),
        Message("user", "more", loss=2),
        answer("two", loss=0),
        Message("user", "end", loss=0.0),
        answer("three"),
    )
    encoding = JinjaTemplate(tokenizer=smollm2).encode([Sample(messages=messages)])[0]
    by_weight: dict[float, list[int]] = {}
    for i, weight in zip(encoding.ids, encoding.weights, strict=True):
        by_weight.setdefault(weight, []).append(i)
    del by_weight[0.0]
    texts = {weight: smollm2.decode(ids) for weight, ids in by_weight.items()}
    assert texts == {0.25: " be nice ", 0.5: "one<|im_end|>", 2.0: "more", 1.0: "three<|im_end|>"}


def test_generation_blocks_carry_weights_of_messages(family: Callable[..., Any]) -> None:
    tokenizer = family("qwen3_training", CHATML_END)
    messages = (user("a"), answer("b", loss=0.5), user("c"), answer("d"))
    encoding = JinjaTemplate(tokenizer=tokenizer).encode([Sample(messages=messages)])[0]
    assert set(encoding.weights) == {0.0, 0.5, 1.0}
    assert encoding.weights[-1] == 1.0  # qwen3_training has the line end inside its block


def test_a_template_whose_answers_cannot_be_found_is_refused(smollm2: Any) -> None:
    tokenizer = copy.copy(smollm2)
    tokenizer.chat_template = "{% for m in messages|reverse %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    template = JinjaTemplate(tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"^f:2: .*message 2 \(assistant\).*generation"):
        template.encode([Sample(messages=CHATS["two"], origin="f:2")])
    assert template.encode([Sample(messages=CHATS["prompt"])])[0].ids


def test_a_template_without_control_tokens_trains_the_answers_text(smollm2: Any) -> None:
    tokenizer = copy.copy(smollm2)
    tokenizer.chat_template = (
        "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] | trim }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    template = JinjaTemplate(tokenizer=tokenizer)
    assert trained(template, tokenizer, "two") == ["c d\n\n", "g h\n\n"]
    assert template.stop_ids() == (tokenizer.eos_token_id,)


def test_thinking_can_be_switched_off(family: Callable[..., Any]) -> None:
    tokenizer = family("qwen3", CHATML_END)
    template = JinjaTemplate(JinjaOptions(enable_thinking=False), tokenizer=tokenizer)
    assert trained(template, tokenizer, "two") == ["c d" + CHATML_END, "g h" + CHATML_END]
    prompt = template.encode([Sample(messages=CHATS["prompt"])], generation=True)[0]
    assert tokenizer.decode(prompt.ids).endswith(EMPTY_THINKING)
