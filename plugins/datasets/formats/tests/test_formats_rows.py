"""Formats: what each shape of row means, and one reason for each thing that can be wrong with it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tk.plugins import load
from tk.sample import Message, Part, Sample, ToolCall

REGISTRY = load()
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def read(name, row):
    return REGISTRY.get("formats", name).build()(row)


def reason(name, row):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is what the caller asserts)
        read(name, row)
    return str(caught.value)


@pytest.mark.parametrize(
    "turns",
    [
        [USER, {"role": "assistant", "content": ""}, USER],
        [{"role": "user", "content": []}],
        [USER, {"role": "system", "content": "x"}, USER],
        [{"role": "system", "content": "x"}] * 2,
    ],
)
def test_what_is_answered_may_be_what_is_not_trained_on(turns):
    found = REGISTRY.get("formats", "messages").build(generation=True)({"messages": turns})
    assert [(m.role, m.text) for m in found.messages] == [(t["role"], t["content"] or "") for t in turns]
    with pytest.raises(ValueError, match="messages"):
        read("messages", {"messages": turns})


def test_the_kind_is_listed_with_its_components():
    assert REGISTRY.kind("formats").singular == "format"
    assert {"messages", "alpaca", "sharegpt", "prompt-completion", "text"} <= set(REGISTRY.names("formats"))


def test_recognition_needs_one_whole_set_of_columns():
    spec = REGISTRY.get("formats", "alpaca").spec
    assert spec.recognises({"instruction": "a", "output": "b", "id": 1}) == 2
    assert spec.recognises({"instruction": "a"}) == 1
    assert spec.recognises({"output": "a"}) == 0


def test_messages_with_everything():
    row = {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+2?"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Use the tool.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
                    {"name": "add", "arguments": {"a": 3}},
                ],
            },
            {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
            {"role": "assistant", "content": "Three.", "weight": 0.5},
        ],
        "tools": json.dumps([TOOL]),
        "solution": 3,
        "label": 1,
    }
    assert read("messages", row) == Sample(
        messages=(
            Message("system", ""),
            Message("user", (Part("text", "What is "), Part("text", "1+2?"))),
            Message(
                "assistant",
                "",
                (ToolCall("add", {"a": 1, "b": 2}, "c1"), ToolCall("add", {"a": 3})),
                reasoning="Use the tool.",
            ),
            Message("tool", "3", name="add", tool_call_id="c1"),
            Message("assistant", "Three.", loss=0.5),
        ),
        tools=(TOOL,),
        label=1,
        extras={"solution": 3},
    )


@pytest.mark.parametrize(("key", "value", "loss"), [("loss", True, 1.0), ("train", False, 0.0), ("weight", 2, 2.0)])
def test_loss_flags_of_messages(key, value, loss):
    assert read("messages", {"messages": [USER, {**ANSWER, key: value}]}).messages[1].loss == loss


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "http://x/y.png", "detail": "low"}}, Part("image", source="http://x/y.png")),
        ({"type": "image_url", "image_url": "y.png"}, Part("image", source="y.png")),
        ({"type": "image", "image": "y.png"}, Part("image", source="y.png")),
        ({"type": "image", "url": "file:y.png"}, Part("image", source="file:y.png")),
        ({"type": "image", "image": {"bytes": b"png", "path": None}}, Part("image", source=b"png")),
        ({"type": "video", "path": "y.mp4"}, Part("video", source="y.mp4")),
        ({"type": "audio_url", "audio_url": {"url": "y.wav"}}, Part("audio", source="y.wav")),
        ({"type": "input_audio", "input_audio": {"data": "UklG", "format": "mp3"}}, Part("audio", source="data:audio/mp3;base64,UklG")),
        ("plain", Part("text", "plain")),
    ],
)  # fmt: skip
def test_parts_of_content(part, expected):
    assert read("messages", {"messages": [{"role": "user", "content": [part]}]}).messages[0].content == (expected,)


def test_messages_as_json_text_and_with_the_nulls_of_columnar_files():
    turn = {"role": "user", "content": "Hi", "tool_calls": None, "name": None, "loss": None}
    assert read("messages", {"messages": json.dumps([turn]), "tools": None}) == Sample((Message("user", "Hi"),))


def test_a_system_column_goes_in_front():
    row = {"messages": [USER], "system": "Be brief."}
    assert [m.role for m in read("messages", row).messages] == ["system", "user"]
    assert reason("messages", {"messages": [{"role": "system", "content": "x"}, USER], "system": "y"}) == (
        "there is a system column and a system message: keep one"
    )


def test_a_prompt_without_an_assistant_turn_is_no_format_error():
    assert read("messages", {"messages": [USER]}).messages == (Message("user", "Hi"),)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "messages is empty"),
        (None, "messages is null"),
        ("hello", "messages is text, and not JSON: Expecting value: line 1 column 1 (char 0)"),
        ({"role": "user"}, "messages must be a list, not an object"),
        (["hi"], "messages[0] must be an object with role and content, not text"),
        ([{"content": "x"}], "messages[0] has no role"),
        ([{"role": 3, "content": "x"}], "messages[0]: role must be text, not a number"),
        ([{"role": "asistant", "content": "x"}], "messages[0]: unknown role 'asistant'. Did you mean 'assistant'?"),
        ([{"role": "user"}], "messages[0] (user) has no content"),
        ([USER, {"role": "assistant", "content": None}], "messages[1] (assistant) has null content"),
        ([USER, {"role": "assistant", "content": " \n"}], "messages[1] (assistant) has empty content"),
        ([{"role": "user", "content": []}], "messages[0] (user) has empty content"),
        ([{"role": "user", "content": 5}], "messages[0] (user): content must be text or a list of parts, not a number"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0] (user) content[0] must be an object with a type"),
        ([{"role": "user", "content": [{"type": "imge"}]}], "messages[0] (user) content[0]: unknown type 'imge'. Did"),
        ([{"role": "user", "content": [{"type": "image", "image": 3}]}], "messages[0] (user) content[0]: image must be a path"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 (user) has a part of type image that names no file"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0] (user) content[0]: text must be text, not null"),
        ([USER, {"role": "system", "content": "x"}], "messages[1]: a system message may only stand at the start"),
        ([{"role": "system", "content": "x"}] * 2, "messages[1]: a second system message"),
        ([USER, {**ANSWER, "loss": -1}], "messages[1] (assistant): loss must be true, false or a number from 0, not -1"),
        ([USER, {**ANSWER, "loss": "yes"}], "messages[1] (assistant): loss must be true, false or a number from 0, not"),
        ([USER, {**ANSWER, "loss": True, "weight": 0}], "messages[1] (assistant): loss and weight contradict each other"),
        ([{**USER, "tool_calls": [{"name": "f"}]}], "messages[0] (user) has tool_calls, which only the assistant may have"),
        ([USER, {"role": "assistant", "tool_calls": [{}]}], "messages[1] (assistant) tool_calls[0] must have a function"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "messages[1] (assistant) tool_calls[0] arguments is text, and not JSON",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}],
            "messages[1] (assistant) tool_calls[0] arguments must be an object, not a list",
        ),
        ([{**USER, "name": 3}], "messages[0] (user): name must be text, not a number"),
    ],
)  # fmt: skip
def test_what_can_be_wrong_with_messages(messages, expected):
    assert reason("messages", {"messages": messages}).startswith(expected)


def test_a_missing_column_names_those_that_are_there():
    assert reason("messages", {"text": "a", "id": 1}) == "there is no column 'messages' (columns: text, id)"
    assert reason("text", {}) == "there is no column 'text' (columns: none)"


def test_tools_must_be_objects():
    assert reason("messages", {"messages": [USER], "tools": ["add"]}) == "tools[0] must be an object, not text"


def test_alpaca_with_everything():
    row = {
        "instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be exact.", "history": [["Hi", "Hello"]], "id": 7,
    }  # fmt: skip
    assert read("alpaca", row) == Sample(
        messages=(
            Message("system", "Be exact."),
            Message("user", "Hi"),
            Message("assistant", "Hello"),
            Message("user", "Add.\n1, 2"),
            Message("assistant", "3"),
        ),
        extras={"id": 7},
    )


def test_alpaca_without_input():
    row = {"instruction": "Add.", "input": "", "output": "3", "history": []}
    assert read("alpaca", row).messages == (Message("user", "Add."), Message("assistant", "3"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"output": ""}, "output is empty"),
        ({"output": None}, "output is null"),
        ({"output": 3}, "output must be text, not a number"),
        ({"instruction": "", "input": " "}, "instruction and input are empty"),
        ({"input": ["x"]}, "input must be text, not a list"),
        ({"system": 1}, "system must be text, not a number"),
        ({"history": [["only"]]}, "history[0] must be a question and an answer, both text"),
        ({"history": ["only"]}, "history[0] must be a question and an answer, both text"),
    ],
)
def test_what_can_be_wrong_with_alpaca(change, expected):
    assert reason("alpaca", {"instruction": "a", "output": "b", **change}) == expected


def test_sharegpt_with_everything():
    row = {
        "conversations": [
            {"from": "human", "value": "1+2?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
            {"from": "observation", "value": "3"},
            {"from": "gpt", "value": "Three.", "loss": True},
            {"role": "user", "content": "Thanks"},
        ],
        "system": "Be exact.",
        "tools": [TOOL],
        "id": "x",
    }
    assert read("sharegpt", row) == Sample(
        messages=(
            Message("system", "Be exact."),
            Message("user", "1+2?"),
            Message("assistant", tool_calls=(ToolCall("add", {"a": 1, "b": 2}),)),
            Message("tool", "3"),
            Message("assistant", "Three.", loss=1.0),
            Message("user", "Thanks"),
        ),
        tools=(TOOL,),
        extras={"id": "x"},
    )


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], "conversations is empty"),
        (["x"], "conversations[0] must be an object with from and value, not text"),
        ([{"value": "x"}], "conversations[0] has neither from nor role"),
        ([{"from": "hooman", "value": "x"}], "conversations[0]: unknown role 'hooman'."),
        ([{"from": "human"}], "conversations[0] (human) has no content"),
        ([{"from": "gpt", "value": ""}], "conversations[0] (gpt) has empty content"),
        (
            [{"from": "gpt", "value": 4}],
            "conversations[0] (gpt): content must be text or a list of parts, not a number",
        ),
        ([{"from": "function_call", "value": "add(1)"}], "conversations[0] (function_call) is text, and not JSON"),
        ([{"from": "function_call", "value": "[]"}], "conversations[0] (function_call) has no call"),
        ([{"from": "human", "value": "x"}, {"from": "system", "value": "y"}], "conversations[1]: a system message may"),
    ],
)
def test_what_can_be_wrong_with_sharegpt(turns, expected):
    assert reason("sharegpt", {"conversations": turns}).startswith(expected)


def test_prompt_and_completion_as_text():
    assert read("prompt-completion", {"prompt": "a", "completion": "b", "n": 1}) == Sample(
        (Message("user", "a"), Message("assistant", "b")), extras={"n": 1}
    )


def test_prompt_and_completion_as_messages_trains_the_completion_only():
    row = {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}
    assert [m.loss for m in read("prompt-completion", row).messages] == [None, 0.0, None, None]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "", "completion": "b"}, "prompt is empty"),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"prompt": "a", "completion": [ANSWER]}, "prompt and completion must both be text"),
        ({"prompt": [USER], "completion": [USER]}, "completion has no assistant message"),
        ({"prompt": 1, "completion": 2}, "completion must be a list, not a number"),
    ],
)
def test_what_can_be_wrong_with_prompt_and_completion(row, expected):
    assert reason("prompt-completion", row).startswith(expected)


def test_text():
    assert read("text", {"text": "Once", "url": "x"}) == Sample(text="Once", extras={"url": "x"})
    assert reason("text", {"text": ""}) == "text is empty"
    assert reason("text", {"text": ["x"]}) == "text must be text, not a list"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["user", "human"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text", "tool_calls"]), inner)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # beside other tests on few cores
@given(
    name=st.sampled_from(["messages", "alpaca", "sharegpt", "prompt-completion", "text"]),
    row=st.dictionaries(
        st.sampled_from(
            [
                "instruction",
                "messages",
                "conversations",
                "prompt",
                "completion",
                "text",
                "system",
                "tools",
                "label",
                "output",
            ]
        ),
        values,
    ),
)
def test_any_row_is_read_or_refused_with_a_reason(name, row):
    try:
        sample = read(name, row)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
        assert sample.messages or sample.text
    assert refused or sample


# --- preference pairs ------------------------------------------------------------------------------------------------

WORSE = {"role": "assistant", "content": "Go away"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": ANSWER, "rejected": WORSE},
        {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": "Go away"},
        {"messages": [USER], "chosen": "Hello", "rejected": WORSE},
        {"messages": [USER, ANSWER], "rejected_response": "Go away"},
        {"messages": [USER, ANSWER], "rejected_messages": [USER, WORSE]},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Go away"},
        },
    ],
)
def test_pairs_mean_the_same_in_every_form(row):
    specs = [REGISTRY.get("formats", name).spec for name in REGISTRY.names("formats")]
    sizes = {spec.name: spec.recognises(row) for spec in specs}
    assert max(sizes, key=sizes.get) == "preference"
    assert list(sizes.values()).count(max(sizes.values())) == 1
    sample = read("preference", {**row, "id": 3})
    assert sample.messages == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert (sample.shared, sample.rejected) == (1, (Message("assistant", "Go away"),))
    assert sample.extras == {"id": 3}


def test_a_pair_keeps_its_system_prompt_and_earlier_turns():
    again = {"role": "user", "content": "Again"}
    row = {"system": "Be kind", "prompt": [USER, ANSWER, again], "chosen": "Hello", "rejected": "No"}
    sample = read("preference", row)
    assert [m.role for m in sample.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert sample.shared == 4


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Hi", "chosen": "Hello"}, "no column 'rejected'"),
        ({"prompt": "Hi", "chosen": "", "rejected": "x"}, "chosen is empty"),
        ({"prompt": "Hi", "chosen": 3, "rejected": "x"}, "chosen must be text, a message or a list of messages"),
        ({"prompt": "Hi", "chosen": [USER], "rejected": "x"}, "chosen has no assistant message"),
        ({"chosen": [ANSWER], "rejected": [WORSE]}, "begin differently"),
        ({"messages": [USER], "rejected_response": "x"}, "chosen has no assistant message"),
    ],
)
def test_what_is_wrong_with_a_pair(row, what):
    assert what in reason("preference", row)


# --- queries and passages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "passages"),
    [
        ({"anchor": "a", "positive": "b"}, ("b",)),
        ({"anchor": "a", "positive": "b", "negative": "c"}, ("b", "c")),
        ({"query": "a", "positive": "b", "negatives": ["c", "d"]}, ("b", "c", "d")),
        ({"query": "a", "passage": "b"}, ("b",)),
    ],
)
def test_a_query_and_its_passages(row, passages):
    assert REGISTRY.get("formats", "passages").spec.recognises(row) == 2
    sample = read("passages", {**row, "topic": "t"})
    assert (sample.text, sample.passages, sample.extras) == ("a", passages, {"topic": "t"})


def test_what_is_wrong_with_passages():
    assert "no column 'positive'" in reason("passages", {"anchor": "a"})
    assert reason("passages", {"anchor": "a", "positive": "b", "negatives": ["c", 3]}).startswith("negatives[1]")
    assert reason("passages", {"anchor": " ", "positive": "b"}) == "anchor is empty"
