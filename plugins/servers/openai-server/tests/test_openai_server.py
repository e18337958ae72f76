"""The protocol, by its own client: answers, streams, usage, log-probabilities, vectors, and what is refused."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tk
from tk.contracts import Serving
from tk_conformance.tiny import tiny_checkpoint

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny", "llama", vocab=300)


@pytest.fixture(scope="module")
def serving(model: Path) -> Iterator[Serving]:
    with tk.serve(model=str(model), sampling={"max_tokens": 12}, server={"port": 0, "max_output": 64}) as serving:
        yield serving


@pytest.fixture
def client(serving: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)


def test_the_server_listens_on_this_machine_only(serving: Serving) -> None:
    assert serving.url.startswith("http://127.0.0.1:")


def test_an_answer_is_that_of_a_talk(client: openai.OpenAI, model: Path) -> None:
    expected = "".join(tk.chat(model=str(model), sampling={"max_tokens": 12}).say("Hello"))
    made = client.chat.completions.create(model="tiny", messages=HELLO)
    (choice,) = made.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", expected, "length")
    assert made.usage
    assert (made.usage.completion_tokens, made.usage.total_tokens) == (12, made.usage.prompt_tokens + 12)
    counted = httpx.post(f"{client.base_url}".replace("/v1/", "/tokenize"), json={"model": "tiny", "messages": HELLO})
    assert counted.json()["count"] == made.usage.prompt_tokens == len(counted.json()["tokens"])


def test_a_stream_comes_to_what_is_answered_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": HELLO,
        "temperature": 1.0,
        "seed": 3,
        "n": 2,
        "logprobs": True,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content != whole.choices[1].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in own) == choice.message.content
        assert own[0].delta.role == "assistant"
        assert [c.finish_reason for c in own if c.finish_reason] == [choice.finish_reason] == [own[-1].finish_reason]
        told = [t for c in own if c.logprobs for t in c.logprobs.content or ()]
        assert told == (choice.logprobs.content if choice.logprobs else None)
        assert len(told) == 12
    assert chunks[-1].usage == whole.usage
    assert not any(chunk.usage for chunk in chunks[:-1])


def test_texts_go_on_each_on_its_own(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "logprobs": 0, "echo": True}
    together = client.completions.create(prompt=["one two", "three"], **asked)
    alone = [client.completions.create(prompt=text, **asked).choices[0] for text in ("one two", "three")]
    assert [c.text for c in together.choices] == [c.text for c in alone]
    assert [c.index for c in together.choices] == [0, 1]
    assert [c.text.startswith(p) for c, p in zip(together.choices, ("one two", "three"), strict=True)] == [True, True]
    logprobs = together.choices[1].logprobs
    assert logprobs
    assert logprobs.token_logprobs
    assert logprobs.text_offset
    assert (len(logprobs.tokens or ()), len(logprobs.token_logprobs)) == (len("three") + 5,) * 2
    assert logprobs.text_offset[:6] == [0, 1, 2, 3, 4, 5]
    ids = httpx.post(str(client.base_url).replace("/v1/", "/tokenize"), json={"model": "tiny", "prompt": "three"})
    by_ids = client.completions.create(prompt=ids.json()["tokens"], **asked)
    assert by_ids.choices[0].text == alone[1].text
    streamed = list(client.completions.create(prompt=["one two", "three"], stream=True, **asked))
    own = [c for chunk in streamed for c in chunk.choices if c.index == 1]
    assert "".join(c.text for c in own) == alone[1].text
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [each for c in own if c.logprobs for each in getattr(c.logprobs, name)] == getattr(logprobs, name)


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_prompt_is_told_as_it_is_scored(client: openai.OpenAI, model: Path, tokens: int) -> None:
    """As evaluation harnesses ask for the likelihood of a text, whole and as a stream."""
    texts = ("a text", "another")
    asked: dict[str, Any] = {"model": "tiny", "prompt": list(texts), "max_tokens": tokens, "logprobs": 2, "echo": True}
    tokenizer, module = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    made = client.completions.create(**asked)
    streamed = [c for chunk in client.completions.create(**asked, stream=True) for c in chunk.choices]
    for choice, text in zip(made.choices, texts, strict=True):
        told: Any = choice.logprobs
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            expected = module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        assert told.tokens[: len(ids)] == [tokenizer.decode([i]) for i in ids]
        assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
        assert told.token_logprobs[1 : len(ids)] == pytest.approx(
            [expected[place, i].item() for place, i in enumerate(ids[1:])], abs=1e-4
        )
        for place in range(1, len(ids)):
            best = expected[place - 1].topk(2)
            top = {tokenizer.decode([i]): value for i, value in zip(best.indices, best.values.tolist(), strict=True)}
            assert told.top_logprobs[place] == pytest.approx(
                {told.tokens[place]: told.token_logprobs[place], **top}, abs=1e-4
            )
        assert (len(told.tokens), choice.text[: len(text)], choice.finish_reason) == (len(ids) + tokens, text, "length")
        own = [c.logprobs for c in streamed if c.index == choice.index and c.logprobs]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [each for part in own for each in getattr(part, name) or ()] == getattr(told, name)
    assert made.usage
    assert made.usage.completion_tokens == 2 * tokens


def test_the_likeliest_tokens_stand_beside_an_answers_own(client: openai.OpenAI) -> None:
    """Of the model itself, whatever distribution is sampled."""
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 5, "seed": 1, "logprobs": True}
    free = client.chat.completions.create(**asked, temperature=1.0, top_logprobs=3).choices[0]
    cold = client.chat.completions.create(**asked, temperature=0.3, top_logprobs=3, extra_body={"top_k": 1}).choices[0]
    greedy = client.chat.completions.create(**asked, temperature=0, top_logprobs=3).choices[0]
    assert free.logprobs
    assert cold.logprobs
    assert cold.logprobs == greedy.logprobs, (
        "top_k = 1 samples what is likeliest, and says how likely the model holds it"
    )
    for told in (*(free.logprobs.content or ()), *(cold.logprobs.content or ())):
        values = [each.logprob for each in told.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert told.logprob <= values[0]
    first = (greedy.logprobs.content or ())[0] if greedy.logprobs else None
    assert first
    assert (first.token, first.logprob) == (first.top_logprobs[0].token, first.top_logprobs[0].logprob)


def test_the_bytes_of_tokens_are_those_of_the_answer(client: openai.OpenAI) -> None:
    """Also where a token is part of a character."""
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 60, "temperature": 1.0, "seed": 1}
    (choice,) = client.chat.completions.create(**asked, logprobs=True).choices
    assert choice.logprobs
    told = [bytes(token.bytes or ()) for token in choice.logprobs.content or ()]
    assert b"".join(told).decode(errors="replace") == choice.message.content
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(map(chr, b"".join(told)))
    assert any(byte > 127 for each in told for byte in each)


def test_log_probs_of_the_sampled_distribution_are_an_option(model: Path) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "x", "temperature": 0.3, "max_tokens": 4, "logprobs": 5}
    with tk.serve(model=str(model), server={"port": 0, "logprobs": "sampled"}) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
        made = client.completions.create(**asked, extra_body={"top_k": 1}).choices[0].logprobs
    assert made
    assert made.token_logprobs == [0.0] * 4
    assert [list(each.values()) for each in made.top_logprobs or ()] == [[0.0]] * 4


def test_what_the_engine_cannot_do_is_refused(calling: tuple[openai.OpenAI, Path]) -> None:
    client, says = calling
    with pytest.raises(openai.BadRequestError, match="top_logprobs: the engine said does not support"):
        client.chat.completions.create(model="caller", messages=HELLO, logprobs=True, top_logprobs=1)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="echo: the engine said does not support"):
        client.completions.create(model="caller", prompt="x", logprobs=0, echo=True, max_tokens=0)
    plugin = {"files": [str(Path(__file__).parent / "said.py")]}
    own: dict[str, Any] = {"engine": "said", "plugins": plugin, "template": "chatml"}
    with pytest.raises(tk.UsageError, match=r"sampling.min_p needs 'min-p', which engine "):
        tk.serve(model=str(says.parent), sampling={"min_p": 0.1}, server={"port": 0}, **own)


def test_tokens_are_made_likelier_and_less_likely(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "ab", "max_tokens": 30, "temperature": 0, "logprobs": 1}
    free = client.completions.create(**asked).choices[0]
    fresh = client.completions.create(**asked, frequency_penalty=2, presence_penalty=2).choices[0]
    biased = client.completions.create(**asked, logit_bias={"70": 100}).choices[0]
    bounded = client.completions.create(**asked | {"temperature": 2}, extra_body={"min_p": 1.0}).choices[0]
    counts = {
        name: len(set(c.logprobs.tokens or ())) if c.logprobs else 0 for name, c in (("free", free), ("fresh", fresh))
    }
    assert counts["fresh"] > counts["free"]
    assert biased.logprobs
    assert len(set(biased.logprobs.tokens or ())) == 1
    assert all(
        max(top.values()) > own
        for top, own in zip(biased.logprobs.top_logprobs or (), biased.logprobs.token_logprobs or (), strict=True)
    )
    assert bounded.text == free.text


def test_stops_end_an_answer(client: openai.OpenAI) -> None:
    free = client.completions.create(model="tiny", prompt="x", temperature=1.0, seed=5).choices[0].text
    stop = free[len(free) // 2 :][:2]
    cut = client.completions.create(model="tiny", prompt="x", temperature=1.0, seed=5, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (free[: free.index(stop)], "stop")


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    (listed,) = client.models.list().data
    assert (listed.id, listed.owned_by) == ("tiny", "tk")


@pytest.mark.parametrize(
    "talk",
    [
        [*HELLO, {"role": "assistant", "content": ""}, {"role": "user", "content": "Still there?"}],
        [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "system", "content": "Be brief."}, *HELLO],
        [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be polite."}, *HELLO],
        [{"role": "user", "content": ""}],
    ],
)
def test_a_talk_goes_on_whatever_its_turns_are(client: openai.OpenAI, model: Path, talk: list[Any]) -> None:
    """An empty answer that the server itself has given, as the client sends it back."""
    asked = {"model": "tiny", "messages": talk}
    rendered = httpx.post(str(client.base_url).replace("/v1/", "/tokenize"), json=asked).json()["tokens"]
    text = AutoTokenizer.from_pretrained(model).decode(rendered)
    assert all(message["content"] in text for message in talk)
    assert client.chat.completions.create(model="tiny", messages=talk).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("status", "says", "asked"),
    [
        (404, "no model 'other'", {"model": "other"}),
        (400, "temperature: Input should be greater than or equal to 0", {"temperature": -1}),
        (400, "messages[0] (user) has no content", {"messages": [{"role": "user"}]}),
        (400, "unknown role 'robot'", {"messages": [{"role": "robot", "content": "x"}]}),
        (400, "there is nothing to answer", {"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}),
        (400, "and 511 are the limit", {"messages": [{"role": "user", "content": "x" * 100_000}]}),
        (400, "max_tokens is 65, and 64 is the limit", {"max_tokens": 65}),
        (400, "presence_penalty: Input should be less than or equal to 2", {"presence_penalty": 2.5}),
        (400, "sampling.logit_bias: {'300': 1.0} is out of bounds", {"logit_bias": {"300": 1}}),
        (400, "tool_choice: only none and auto", {"tools": [TOOL], "tool_choice": "required"}),
        (400, "tool_choice: only none and auto", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}}),
        (400, "holds an answer to JSON or a schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}),
        (400, "top_logprobs: they come with logprobs: true", {"top_logprobs": 2}),
        (400, "max_tokens: 0 is for the log-probabilities of a prompt", {"max_tokens": 0}),
        (400, "response_format", {"response_format": {"type": "json_object"}}),
        (400, "Extra inputs are not permitted", {"extra_body": {"nonsense": 1}}),
        (400, "this template writes text only", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}]}]}),
        (400, "a data URL or an http(s) URL", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]}),
        (400, "a data URL or an http(s) URL", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(client: openai.OpenAI, status: int, says: str, asked: dict[str, Any]) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "stream": stream, **asked})
        assert caught.value.status_code == status
        assert says in caught.value.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"model": "tiny", "messages": ['),
        (400, b'{"model": "tiny", "prompt": "\xff\xfe"}'),
        (400, b'{"model": "tiny", "prompt": "\\ud800"}'),
        (400, b'{"model": "tiny", "prompt": []}'),
        (400, b'{"model": "tiny", "prompt": [1000]}'),
        (400, b'{"model": "tiny", "prompt": [-1]}'),
        (400, b'{"model": "tiny", "prompt": ""}'),
        (400, b'{"model": "tiny", "prompt": ["a", "b", "c", "d", "e", "f", "g", "h", "i"], "n": 128}'),
        (400, b'{"model": "tiny", "prompt": "x", "temperature": NaN}'),
        (400, b'{"model": "tiny", "prompt": "x", "max_tokens": 1e99}'),
        (400, b"[]"),
        (413, b'{"model": "tiny", "prompt": "' + b"x" * 10_000_000 + b'"}'),
    ],
)
def test_bodies_that_are_not_as_they_should_be(serving: Serving, status: int, body: bytes) -> None:
    done = httpx.post(f"{serving.url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert (done.status_code, set(done.json()["error"])) == (status, {"message", "type", "param", "code"})
    assert httpx.get(f"{serving.url}/health").json() == {"status": "ok"}


def called(arguments: str) -> str:
    """A body with a call, whose arguments are JSON text."""
    call = {"function": {"name": "f", "arguments": arguments}}
    return json.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "x"}]})


HALF = '{"role": "user", "content": "\\ud800"}'
PICTURE = '{"type": "image_url", "image_url": {"url": "http://localhost/\\udfff.png"}}'
DEEP = '{"a": ' * 300 + "1" + "}" * 300


@pytest.mark.parametrize(
    ("says", "body"),
    [
        ("half of a character", f'{{"messages": [{HALF}]}}'),
        ("half of a character", f'{{"messages": [{{"role": "user", "content": [{PICTURE}]}}]}}'),
        ("half of a character", '{"messages": [{"role": "user", "content": "x"}], "metadata": {"\\ud800": 1}}'),
        (
            "deeper than 100",
            f'{{"messages": [{{"role": "user", "content": "x"}}], "tools": [{{"type": "function", "function": '
            f'{{"name": "f", "parameters": {DEEP}}}}}]}}',
        ),
        ("error parsing the body", "[" * 200_000),
        ("half of a character", called('{"a": "\\ud800"}')),
        ("recursion", called('{"a": ' + "[" * 970 + "]" * 970 + "}")),
    ],
)
def test_json_that_nothing_can_write_is_refused(serving: Serving, says: str, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    done = httpx.post(f"{serving.url}/v1/chat/completions", content=body.encode(), headers=headers)
    assert (done.status_code, says in done.json()["error"]["message"]) == (400, True), done.text


def test_a_failure_that_nobody_foresaw_has_the_form_of_others(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    own: dict[str, Any] = {"template": "failing", "plugins": {"files": [str(tmp_path / "failing.py")]}}
    with tk.serve(model=str(model), server={"port": 0}, **own) as serving:
        done = httpx.post(f"{serving.url}/v1/completions", json={"prompt": "x"})
        assert (done.status_code, done.json()["error"]["type"]) == (500, "server_error")
        counted = 'tk_requests_total{path="/v1/completions",status="500"} 1.0'
        assert counted in httpx.get(f"{serving.url}/metrics").text.splitlines()
    assert "ZeroDivisionError" in capfd.readouterr().err


FAILING = """
from tk import TemplateSpec, hookimpl
from tk_declarative.template import ChatMLTemplate


class Failing(ChatMLTemplate):
    def encode(self, samples, *, generation=False):
        return 1 // 0


@hookimpl
def tk_templates():
    config = "tk_declarative.options:ChatOptions"
    yield TemplateSpec(name="failing", target=Failing, config=config, summary="Fails.")
"""


def test_other_paths_and_types_are_refused_in_the_same_form(serving: Serving) -> None:
    assert httpx.get(f"{serving.url}/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{serving.url}/v1/completions").status_code == 405
    plain = httpx.post(f"{serving.url}/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (plain.status_code, "Content-Type" in plain.json()["error"]["message"]) == (415, True)


def test_metrics_count_tokens_and_requests(serving: Serving, client: openai.OpenAI) -> None:
    def figure(name: str) -> float:
        lines = httpx.get(f"{serving.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    counted = ("tk_generated_tokens_total", 'tk_requests_total{path="/v1/completions",status="200"}')
    before = [figure(name) for name in counted]
    client.completions.create(model="tiny", prompt="x", max_tokens=7)
    assert [figure(name) - old for name, old in zip(counted, before, strict=True)] == [7, 1]


def test_vectors_are_those_of_embed(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "encoder", "llama", vocab=300)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "some words"}) + "\n")
    (expected,) = tk.embed(model=str(model), data=str(tmp_path / "rows.jsonl"))
    with tk.serve(model=str(model), server={"port": 0, "vectors": True, "model_name": "v"}) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
        made = client.embeddings.create(model="v", input=["some words", "others"], encoding_format="float")
        assert made.data[0].embedding == pytest.approx(list(expected.values), abs=1e-6)
        packed = httpx.post(
            f"{serving.url}/v1/embeddings", json={"model": "v", "input": "some words", "encoding_format": "base64"}
        ).json()["data"][0]["embedding"]
        assert struct.unpack("<32f", base64.b64decode(packed)) == pytest.approx(expected.values, abs=1e-6)
        short = client.embeddings.create(model="v", input="some words", dimensions=4, encoding_format="float")
        assert sum(x * x for x in short.data[0].embedding) == pytest.approx(1)
        with pytest.raises(openai.BadRequestError, match="generates no text"):
            client.completions.create(model="v", prompt="x")


TEXTS = [[60 + i % 40] * 200 for i in range(2048)]
"""More than is computed at once, as tokens."""


@pytest.fixture(scope="module")
def vectors(model: Path) -> Iterator[Serving]:
    with tk.serve(model=str(model), server={"port": 0, "vectors": True, "model_name": "v"}) as serving:
        yield serving


def embedded(serving: Serving, texts: Any, model: str = "v") -> httpx.Response:
    body = {"model": model, "input": texts, "encoding_format": "base64"}
    return httpx.post(f"{serving.url}/v1/embeddings", json=body, timeout=120)


def test_vectors_of_many_texts_are_those_of_each(vectors: Serving) -> None:
    texts = [[60 + i] * (1 + 7 * i % 50) for i in range(70)]
    made = [each["embedding"] for each in embedded(vectors, texts).json()["data"]]
    for number in (0, 31, 32, 69):
        (alone,) = embedded(vectors, texts[number]).json()["data"]
        found, own = (struct.unpack("<32f", base64.b64decode(each)) for each in (made[number], alone["embedding"]))
        assert found == pytest.approx(own, abs=1e-5)


def test_who_asks_for_many_vectors_keeps_others_waiting_for_some_of_them_only(vectors: Serving) -> None:
    many = threading.Thread(target=embedded, args=(vectors, TEXTS))
    many.start()
    time.sleep(0.2)
    assert embedded(vectors, "one").status_code == 200
    assert many.is_alive()
    many.join()


def test_vectors_that_take_too_long_are_given_up(model: Path) -> None:
    with tk.serve(model=str(model), server={"port": 0, "vectors": True, "model_name": "v", "timeout": 0.2}) as serving:
        done = embedded(serving, TEXTS)
        assert (done.status_code, done.json()["error"]["code"]) == (504, "timeout")
        assert embedded(serving, "one").status_code == 200


def test_where_nothing_is_generated_a_text_may_fill_all_positions(client: openai.OpenAI, vectors: Serving) -> None:
    assert embedded(vectors, [60] * 512).status_code == 200
    refused = embedded(vectors, [60] * 513)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    scored: dict[str, Any] = {"model": "tiny", "prompt": [60] * 512, "echo": True, "logprobs": 0}
    told = client.completions.create(**scored, max_tokens=0).choices[0].logprobs
    assert told
    assert len(told.tokens or ()) == 512
    with pytest.raises(openai.BadRequestError, match="511 are the limit"):
        client.completions.create(**scored, max_tokens=1)


def test_vectors_of_an_adapter_are_refused_where_the_engine_has_none(model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"query": "ab" * n, "positive": "cd" * n}) + "\n" for n in (1, 2)))
    short: dict[str, Any] = {"data": str(rows), "method": "embedding", "train": {"steps": 1}}
    run = tk.train(model=str(model), **short, output=str(tmp_path / "run")).output
    given = {"name": str(model), "adapters": {"one": str(run)}}
    with tk.serve(model=given, server={"port": 0, "vectors": True, "model_name": "v"}) as serving:
        assert embedded(serving, "text").json()["model"] == "v"
        refused = embedded(serving, "text", model="one")
        assert (refused.status_code, "not of the adapter 'one'" in refused.text) == (400, True)


# --- adapters ---


def test_adapters_are_models_of_their_own(model: Path, tmp_path: Path) -> None:
    """Two runs of one base: each is answered as it is alone."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "ab" * n, "completion": "cd" * n}) + "\n" for n in range(1, 9)))
    runs = {}
    for seed in (1, 2):
        train = {"steps": 3, "seed": seed}
        runs[f"run{seed}"] = tk.train(
            model=str(model), data=str(rows), optim={"lr": 0.5}, train=train, output=str(tmp_path / f"run{seed}")
        ).output
    hot = {"temperature": 0.0, "max_tokens": 8}
    expected = {name: "".join(tk.chat(run=run, sampling=hot).say("Hello")) for name, run in runs.items()}
    expected["tiny"] = "".join(tk.chat(model=str(model), sampling=hot).say("Hello"))
    assert len(set(expected.values())) == 3
    given = {"name": str(model), "adapters": {name: str(run) for name, run in runs.items()}}
    with tk.serve(model=given, sampling=hot, server={"port": 0}) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
        assert [listed.id for listed in client.models.list().data] == ["tiny", "run1", "run2"]
        for name, text in expected.items():
            made = client.chat.completions.create(model=name, messages=HELLO)
            assert (made.model, made.choices[0].message.content) == (name, text)
        with pytest.raises(openai.NotFoundError, match="tiny, run1, run2"):
            client.chat.completions.create(model="run3", messages=HELLO)
    with pytest.raises(tk.UsageError, match="nothing here chooses among them"):
        list(tk.chat(model=given).say("Hello"))
    with pytest.raises(tk.UsageError, match="model.adapters"):
        tk.train(model=given, data=str(rows), output=str(tmp_path / "no"))


def trained(model: Path, folder: Path, seed: int) -> Path:
    """An adapter that a run has left."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "ab" * 4, "completion": "cd" * 4}) + "\n")
    run = tk.train(
        model=str(model),
        data=str(folder / "rows.jsonl"),
        optim={"lr": 0.5},
        train={"steps": 2, "seed": seed},
        output=str(folder / "run"),
    )
    return Path(run.output)


def test_adapters_are_loaded_and_unloaded_where_that_is_allowed(model: Path, tmp_path: Path) -> None:
    run = trained(model, tmp_path / "one", 1)
    expected = "".join(tk.chat(run=run, sampling={"max_tokens": 8}).say("Hello"))
    own = {"port": 0, "api_keys": ["key"], "load_adapters": True}
    with tk.serve(model=str(model), sampling={"max_tokens": 8}, server=own) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="key", max_retries=0)

        def post(path: str, key: str = "key", **body: Any) -> httpx.Response:
            return httpx.post(f"{serving.url}/v1/{path}", json=body, headers={"Authorization": f"Bearer {key}"})

        assert post("load_lora_adapter", key="other", lora_name="one", lora_path=str(run)).status_code == 401
        for name, path, says in (
            ("one", tmp_path, "holds no adapter"),
            ("one", "x" * 4000, "name too long"),
            ("tiny", run, "a model 'tiny' already"),
            ("__base__", run, "the name is taken"),
        ):
            refused = post("load_lora_adapter", lora_name=name, lora_path=str(path))
            assert (refused.status_code, says in refused.text) == (400, True), refused.text
        plain = client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content
        for _ in range(2):
            assert post("load_lora_adapter", lora_name="one", lora_path=str(run)).status_code == 200
            assert post("load_lora_adapter", lora_name="one", lora_path=str(run)).status_code == 400
            assert [listed.id for listed in client.models.list().data] == ["tiny", "one"]
            for name, text in (("one", expected), ("tiny", plain)):
                assert client.chat.completions.create(model=name, messages=HELLO).choices[0].message.content == text
            assert post("unload_lora_adapter", lora_name="one").status_code == 200
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="one", messages=HELLO)
        assert post("unload_lora_adapter", lora_name="one").status_code == 404
        assert client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content == plain


def test_weights_that_could_not_be_read_leave_the_version_as_it_was(model: Path, tmp_path: Path) -> None:
    run, plugin = trained(model, tmp_path / "one", 1), {"files": [str(Path(__file__).parent / "noted.py")]}
    own: dict[str, Any] = {"engine": "noted", "plugins": plugin, "server": {"port": 0, "load_adapters": True}}
    own["server"]["weight_updates"] = True
    with tk.serve(model={"name": str(model), "adapters": {"one": str(run)}}, **own) as serving:
        asked = {"folder": str(tmp_path / "nowhere"), "version": 7}
        assert httpx.post(f"{serving.url}/v1/update_weights", json=asked).status_code == 400
        done = httpx.post(f"{serving.url}/v1/unload_lora_adapter", json={"lora_name": "one"})
        assert (done.status_code, (model / "version.txt").read_text()) == (200, "0")


def test_answers_by_an_adapter_that_goes_end_and_others_go_on(model: Path, tmp_path: Path) -> None:
    run = trained(model, tmp_path / "one", 1)
    given = {"name": str(model), "adapters": {"one": str(run)}}
    with tk.serve(model=given, server={"port": 0, "load_adapters": True}) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
        asked: dict[str, Any] = {"prompt": "x", "max_tokens": 300, "stream": True, "logit_bias": {"2": -100}}
        streams = {name: iter(client.completions.create(model=name, **asked)) for name in ("one", "tiny")}
        for stream in streams.values():
            next(stream)
        done = httpx.post(f"{serving.url}/v1/unload_lora_adapter", json={"lora_name": "one"})
        assert done.status_code == 200
        with pytest.raises(openai.APIError, match="'one' was unloaded while this was answered"):
            list(streams["one"])
        assert [c.finish_reason for chunk in streams["tiny"] for c in chunk.choices][-1] == "length"


def test_an_engine_elsewhere_has_the_adapters_that_it_began_with(model: Path) -> None:
    plugin = {"files": [str(Path(__file__).parent / "said.py")]}
    with pytest.raises(tk.UsageError, match="engine elsewhere: it has weights of its own"):
        tk.serve(model=str(model), engine="elsewhere", plugins=plugin, server={"port": 0, "load_adapters": True})


def test_an_engine_may_have_less_room_than_the_model(tmp_path: Path) -> None:
    folder, plugin = tiny_checkpoint(tmp_path / "m", vocab=300), {"files": [str(Path(__file__).parent / "said.py")]}
    (folder / "said.txt").write_text("Yes.")
    with tk.serve(
        model=str(folder), template="chatml", engine="cramped", plugins=plugin, server={"port": 0}
    ) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
        (choice,) = client.chat.completions.create(model="m", messages=HELLO).choices
        assert choice.message.content == "Yes."
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 100}])
    assert refused.value.code == "context_length_exceeded"


def test_nobody_loads_adapters_unless_that_is_allowed(serving: Serving) -> None:
    for path in ("load", "unload"):
        body = {"lora_name": "x", "lora_path": "/tmp"}
        assert httpx.post(f"{serving.url}/v1/{path}_lora_adapter", json=body).status_code == 404


# --- tools ---


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, Path]]:
    """A server whose model says what said.txt holds, in the chat format that has tools."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m") / "caller", "llama", vocab=300, max_position_embeddings=4096)
    plugin = {"files": [str(Path(__file__).parent / "said.py")]}
    with tk.serve(model=str(folder), template="chatml", engine="said", plugins=plugin, server={"port": 0}) as serving:
        yield openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0), folder / "said.txt"


def test_calls_of_tools_are_told_from_text(calling: tuple[openai.OpenAI, Path]) -> None:
    client, says = calling
    said = '{"name": "weather", "arguments": {"city": "Zürich"}}'
    says.write_text(f"Let me look.\n<tool_call>\n{said}\n</tool_call>\n<tool_call>\n{said}\n</tool_call>")
    asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "tools": [TOOL]}
    (choice,) = client.chat.completions.create(**asked).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    calls = choice.message.tool_calls or []
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [("weather", {"city": "Zürich"})] * 2
    assert len({call.id for call in calls}) == 2
    chunks = [c for chunk in client.chat.completions.create(**asked, stream=True) for c in chunk.choices]
    streamed = [call for c in chunks for call in c.delta.tool_calls or ()]
    assert [(c.index, c.function.name, c.function.arguments) for c in streamed if c.function] == [
        (0, "weather", calls[0].function.arguments),
        (1, "weather", calls[1].function.arguments),
    ]
    assert chunks[-1].finish_reason == "tool_calls"
    answered = [
        *HELLO,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": calls[0].id, "content": "Rain."},
    ]
    says.write_text("It rains.")
    (last,) = client.chat.completions.create(**{**asked, "messages": answered}).choices
    assert (last.finish_reason, last.message.content, last.message.tool_calls) == ("stop", "It rains.", None)


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("said", "text", "calls", "held"),
    [
        (f"Let me look, 😀.\n\n{CALL}", "Let me look, 😀.", 1, 0),
        (f"{CALL}\n{CALL}", "", 2, 0),
        ("It is <b>cold</b> and <tool", "It is <b>cold</b> and <tool", 0, len(" <tool")),
        ("Mark: <tool_call> and no more", "Mark: <tool_call> and no more", 0, len(" <tool_call> and no more")),
        ("Plain words, in pieces.", "Plain words, in pieces.", 0, 0),
    ],
)
def test_with_tools_text_is_streamed_until_a_call_may_begin(
    model: Path, tmp_path: Path, said: str, text: str, calls: int, held: int
) -> None:
    folder = tiny_checkpoint(tmp_path / "caller", "llama", vocab=300, max_position_embeddings=4096)
    (folder / "said.txt").write_text(said)
    plugin = {"files": [str(Path(__file__).parent / "said.py")]}
    with tk.serve(model=str(folder), template="chatml", engine="spoken", plugins=plugin, server={"port": 0}) as serving:
        client = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
        asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "tools": [TOOL]}
        whole = client.chat.completions.create(**asked).choices[0]
        pieces = [c for chunk in client.chat.completions.create(**asked, stream=True) for c in chunk.choices]
    contents = [c.delta.content or "" for c in pieces]
    assert "".join(contents) == text == (whole.message.content or "")
    assert contents[-1] == (text[len(text) - held :] if held else ""), "only what might have been a call comes last"
    assert sum(map(bool, contents)) >= min(len(text) - held, 5), "the rest comes as it is said"
    assert sum(len(c.delta.tool_calls or ()) for c in pieces) == calls == len(whole.message.tool_calls or ())
    assert pieces[-1].finish_reason == ("tool_calls" if calls else "stop") == whole.finish_reason


def test_where_one_call_at_most_is_asked_for_the_first_one_counts(calling: tuple[openai.OpenAI, Path]) -> None:
    client, says = calling
    says.write_text(f"{CALL}\n{CALL}")
    asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "tools": [TOOL], "parallel_tool_calls": False}
    message = client.chat.completions.create(**asked).choices[0].message
    pieces = [c for chunk in client.chat.completions.create(**asked, stream=True) for c in chunk.choices]
    assert len(message.tool_calls or ()) == sum(len(c.delta.tool_calls or ()) for c in pieces) == 1


def test_whether_a_tool_is_strict_is_no_part_of_the_prompt_and_cannot_be_had(serving: Serving) -> None:
    def counted(function: dict[str, Any]) -> httpx.Response:
        tool = {"type": "function", "function": {**TOOL["function"], **function}}  # type: ignore[dict-item]
        return httpx.post(f"{serving.url}/tokenize", json={"messages": HELLO, "tools": [tool]})

    assert counted({"strict": False}).json()["tokens"] == counted({}).json()["tokens"]
    refused = counted({"strict": True})
    assert (refused.status_code, "strict: nothing here" in refused.json()["error"]["message"]) == (400, True)


def test_without_tools_nothing_is_a_call(calling: tuple[openai.OpenAI, Path]) -> None:
    client, says = calling
    text = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    says.write_text(text)
    for asked in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        (choice,) = client.chat.completions.create(model="caller", messages=HELLO, **asked).choices  # type: ignore[arg-type]
        assert (choice.finish_reason, choice.message.content) == ("stop", text)
