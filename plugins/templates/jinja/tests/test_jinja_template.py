"""The rest of the contract: continuing a conversation, stop tokens, options, and errors a user can mend."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tk.contracts import Template
from tk.errors import DataError, UsageError
from tk.sample import Message, Part, Sample, ToolCall
from tk_jinja.options import JinjaOptions
from tk_jinja.template import JinjaTemplate

ASKED = (Message("user", "hi"),)


def prompt_ids(template: JinjaTemplate, *messages: Message) -> list[int]:
    return list(template.encode([Sample(messages=messages)], generation=True)[0].ids)


def test_it_fulfils_the_contract(smollm2: Any) -> None:
    assert isinstance(JinjaTemplate(JinjaOptions(), tokenizer=smollm2, media=None), Template)


@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "gemma", "phi3", "cohere2"])
def test_extending_equals_rendering_where_the_template_is_prefix_stable(name: str, family: Callable[..., Any]) -> None:
    eos = {"qwen2_5": "<|im_end|>", "cohere2": "<|END_OF_TURN_TOKEN|>"}.get(name, "<|endoftext|>")
    tokenizer = family(name, eos)
    template = JinjaTemplate(tokenizer=tokenizer)
    whole = prompt_ids(template, *ASKED, Message("assistant", "yo"), Message("user", "more <|im_end|>"))
    start = prompt_ids(template, *ASKED)
    for said in ("yo", "yo" + {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi3": "<|end|>",
                               "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"}.get(name, eos)):  # fmt: skip
        sampled = [*start, *tokenizer(said, add_special_tokens=False)["input_ids"]]
        extended = template.extend(sampled, [Message("user", "more <|im_end|>")])
        added = extended.ids[len(sampled) :]
        assert extended.ids[: len(sampled)] == sampled
        assert added == whole[-len(added) :]
        assert tokenizer.decode(extended.ids) == tokenizer.decode(whole)
        assert extended.weights == [0.0] * len(extended.ids)


def test_extending_keeps_what_was_sampled_however_it_was_tokenised(smollm2: Any) -> None:
    template = JinjaTemplate(tokenizer=smollm2)
    odd = smollm2.convert_tokens_to_ids(["h", "e", "l", "l", "o"])
    start = prompt_ids(template, *ASKED)
    extended = template.extend([*start, *odd, 2], [Message("user", "x")])
    assert extended.ids[: len(start) + 6] == [*start, *odd, 2]
    rest = smollm2.decode(extended.ids[len(start) + 6 :])
    assert rest == "\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert template.extend(start, []).ids == start


def test_extending_with_tool_results_after_thinking(family: Callable[..., Any]) -> None:
    tokenizer = family("qwen3", "<|im_end|>")
    template = JinjaTemplate(tokenizer=tokenizer)
    said = "<think>\nhm\n</think>\n\n<tool_call>\n{}\n</tool_call><|im_end|>"
    sampled = [*prompt_ids(template, *ASKED), *tokenizer(said)["input_ids"]]
    extended = template.extend(sampled, [Message("tool", "1"), Message("tool", "2")])
    assert tokenizer.decode(extended.ids[len(sampled) :]) == (
        "\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_stop_ids_are_the_end_of_turn_the_end_of_text_and_the_checkpoints_own(
    family: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = family("llama3", "<|endoftext|>")
    end, eos = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|endoftext|>"])
    assert JinjaTemplate(tokenizer=tokenizer).stop_ids() == (end, eos)
    tokenizer.name_or_path = str(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos, 7]}))
    assert JinjaTemplate(tokenizer=tokenizer).stop_ids() == (end, eos, 7)


def test_raw_text_needs_no_messages(smollm2: Any) -> None:
    encodings = JinjaTemplate(tokenizer=smollm2).encode(
        [Sample(text="once upon"), Sample(text="once upon", ended=True)]
    )
    own = smollm2("once upon")["input_ids"]
    assert [list(encoding.ids) for encoding in encodings] == [own, [*own, smollm2.eos_token_id]]
    assert [list(encoding.weights) for encoding in encodings] == [[1.0] * len(own), [1.0] * (len(own) + 1)]


def test_no_chat_template_names_the_mend(smollm2: Any) -> None:
    tokenizer = copy.copy(smollm2)
    tokenizer.chat_template = None
    template = JinjaTemplate(tokenizer=tokenizer)
    with pytest.raises(UsageError, match="--template chatml"):
        template.encode([Sample(messages=ASKED)])
    raw = template.encode([Sample(text="plain text")])[0]
    assert list(raw.ids) == tokenizer("plain text")["input_ids"]
    assert template.stop_ids() == (tokenizer.eos_token_id,)


@pytest.mark.parametrize("said", ["\U0010fffb", "a\U0010fffdb", "\U0010fffc"])
def test_characters_that_mark_media_are_text_where_none_are_taken(smollm2: Any, said: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}]
    encoding = JinjaTemplate(tokenizer=smollm2).encode(
        [Sample(messages=(Message("user", "hi"), Message("assistant", said)))]
    )[0]
    expected = smollm2.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert list(encoding.ids) == expected
    trained = [token for token, weight in zip(encoding.ids, encoding.weights, strict=True) if weight]
    assert smollm2.decode(trained).startswith(said)


def test_another_template_from_text_or_file(smollm2: Any, tmp_path: Path) -> None:
    text = "{% for m in messages %}[{{ m.role }}{{ mark }}]{{ m.content }}<|im_end|>{% endfor %}"
    path = tmp_path / "mine.jinja"
    path.write_text(text)
    for given in (text, str(path)):
        template = JinjaTemplate(JinjaOptions(chat_template=given, variables={"mark": "!"}), tokenizer=smollm2)
        assert smollm2.decode(template.encode([Sample(messages=ASKED)])[0].ids) == "[user!]hi<|im_end|>"
    with pytest.raises(UsageError, match=r"template\.chat_template: there is no file 'nowhere\.jinja'"):
        JinjaTemplate(JinjaOptions(chat_template="nowhere.jinja"), tokenizer=smollm2)
    with pytest.raises(UsageError, match="cannot write a question"):
        JinjaTemplate(JinjaOptions(chat_template="{{ raise_exception('never') }}"), tokenizer=smollm2)


def test_a_templates_own_objection_is_told_with_the_row(family: Callable[..., Any]) -> None:
    template = JinjaTemplate(tokenizer=family("gemma", "<end_of_turn>"))
    bad = Sample(messages=(Message("user", "a"), Message("user", "b")), origin="d.jsonl:9")
    with pytest.raises(DataError, match=r"^d\.jsonl:9: .*\(user, user\): Conversation roles must alternate"):
        template.encode([Sample(messages=ASKED), bad])


def test_rows_with_nothing_media_or_lost_parts_are_refused(smollm2: Any) -> None:
    template = JinjaTemplate(tokenizer=smollm2)
    for sample, words in (
        (Sample(origin="r:1"), r"^r:1: .*neither messages nor text"),
        (Sample(messages=(Message("user", (Part("image", source="x.png"),)),), origin="r:2"), "^r:2: .*image"),
        (Sample(messages=(*ASKED, Message("assistant", "b", reasoning="why")), origin="r:3"), "^r:3: .*reasoning"),
        (
            Sample(messages=(*ASKED, Message("assistant", tool_calls=(ToolCall("f", {}),))), origin="r:4"),
            "^r:4: .*message 2",
        ),
    ):
        with pytest.raises(DataError, match=words):
            template.encode([sample])


def test_listing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, tk_jinja.plugin, tk_jinja.options; spec, = tk_jinja.plugin.tk_templates();"
        "assert spec.name == 'jinja'; assert not {'torch', 'transformers', 'tokenizers', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
