"""An endpoint gives what the engine in the process gives; it is given new weights, judges, and its faults are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tk
from tk.contracts import Completion, Engine, LoadedModel, Request, Sampling
from tk.dispatch import Dispatcher
from tk.engines import generate, generate_each, stream
from tk.errors import RequestError, TkError, UsageError
from tk.sample import Message, Part, ToolCall
from tk_auto.family import AutoFamily
from tk_conformance.engines import check_engine
from tk_conformance.tiny import tiny_checkpoint
from tk_openai.body import chat_body
from tk_openai.engine import OpenAIEngine
from tk_openai.options import OpenAIOptions
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

PROMPTS = ([5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 40, 41])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)


@pytest.fixture
def url(base: Path) -> Iterator[str]:
    """`tk serve` on the tiny model."""
    with tk.serve(model=str(base), template="chatml", server={"port": 0, "weight_updates": True}) as serving:
        yield f"{serving.url}/v1"


def opened(url: str, base: Path | None, folder: Path, **options: Any) -> OpenAIEngine:
    model = AutoFamily().load(str(base), device="meta") if base else None
    return OpenAIEngine(OpenAIOptions(url=url, **options), model=model, folder=folder)


@pytest.fixture
def engine(url: str, base: Path, tmp_path: Path) -> Iterator[OpenAIEngine]:
    made = opened(url, base, tmp_path)
    yield made
    made.close()


def here(model: LoadedModel) -> TransformersEngine:
    return TransformersEngine(TransformersOptions(), model=model)


def same(a: list[list[Completion]], b: list[list[Completion]]) -> bool:
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(x, y, strict=True)]
    close = all(x.logps == (pytest.approx(y.logps, abs=1e-5) if y.logps is not None else None) for x, y in pairs)
    return close and [(x.ids, x.text, x.finish_reason) for x, _ in pairs] == [
        (y.ids, y.text, y.finish_reason) for _, y in pairs
    ]


def test_it_behaves_as_an_engine(engine: OpenAIEngine) -> None:
    assert isinstance(engine, Engine)
    check_engine(engine, PROMPTS, most=512)


def test_answers_are_those_of_the_engine_in_the_process(engine: OpenAIEngine, base: Path) -> None:
    requests = [
        Request(ids, sampling, stop_ids)
        for ids in PROMPTS
        for stop_ids in ((), (17, 2))
        for sampling in (
            Sampling(max_tokens=12, logprobs=True),
            Sampling(max_tokens=12, temperature=0.8, top_p=0.9, top_k=20, seed=5, n=3, logprobs=True),
            Sampling(
                max_tokens=12, temperature=1.0, seed=0, presence_penalty=0.4, logit_bias={"9": 2.0}, logprobs=True
            ),
        )
    ]
    assert same(generate(engine, requests), generate(here(AutoFamily().load(str(base))), requests))


def test_pieces_come_one_by_one(engine: OpenAIEngine) -> None:
    deltas = list(stream(engine, Request(PROMPTS[0], Sampling(max_tokens=20))))
    assert len(deltas) > 10
    assert (
        "".join(d.text for d in deltas) == generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=20))])[0][0].text
    )


def test_new_weights_are_served_and_proved(engine: OpenAIEngine, base: Path, tmp_path: Path) -> None:
    model = AutoFamily().load(str(base))
    requests = [Request(ids, Sampling(max_tokens=12)) for ids in PROMPTS]
    before = generate(engine, requests)
    first = engine.update(model.module.state_dict().items(), 1)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    second = engine.update(model.module.state_dict().items(), 2)
    after = generate(engine, requests)
    assert first
    assert first != second == here(model).update(model.module.state_dict().items(), 2)
    assert [c[0].ids for c in after] != [c[0].ids for c in before]
    assert same(after, generate(here(model), requests))
    assert not list(tmp_path.glob("weights-*"))
    with pytest.raises(UsageError, match="no weight named 'nonsense'"):
        engine.update([("nonsense", torch.zeros(1))], 3)


def test_an_endpoint_that_another_run_uses_as_well_is_told(url: str, base: Path, tmp_path: Path) -> None:
    model, request = AutoFamily().load(str(base)), Request(PROMPTS[0], Sampling(max_tokens=3))
    ours, theirs = opened(url, base, tmp_path / "ours"), opened(url, base, tmp_path / "theirs")
    try:
        ours.update(model.module.state_dict().items(), 1)
        theirs.update(((name, value * 1.5) for name, value in model.module.state_dict().items()), 1)
        assert generate(theirs, [request])
        with pytest.raises(TkError, match="other weights than it was given"):
            generate(ours, [request])
        ours.update(model.module.state_dict().items(), 2)
        assert generate(ours, [request])
    finally:
        ours.close()
        theirs.close()


def test_log_probs_of_another_distribution_are_refused(plain_url: str, url: str, base: Path, tmp_path: Path) -> None:
    warm = Sampling(max_tokens=2, temperature=0.5, logprobs=True)
    asked = Request(messages=[Message("user", "a")], sampling=warm)
    for address, options, told in (
        (url, {}, True),
        (plain_url, {}, False),
        (plain_url, {"logprobs_of": "sampled"}, True),
    ):
        engine = opened(address, None, tmp_path, **options)
        try:
            if told:
                assert len(generate(engine, [asked])[0][0].logps or ()) == 2
            else:
                with pytest.raises(TkError, match="sampled distribution"):
                    generate(engine, [asked])
        finally:
            engine.close()


def test_an_endpoint_that_takes_no_weights_says_so(base: Path, tmp_path: Path) -> None:
    with tk.serve(model=str(base), template="chatml", server={"port": 0}) as serving:
        engine = opened(f"{serving.url}/v1", base, tmp_path)
        try:
            with pytest.raises(UsageError, match=r"--server\.weight-updates true"):
                engine.update([("a", torch.zeros(1))], 1)
        finally:
            engine.close()


SAID = """
from tk import component
from tk.contracts import Completion
from tk.engines import Batched

CALL = '{"name": "weather", "arguments": {"city": "Zürich"}}'


@component("engines", "said")
class Said(Batched):
    \"""Calls a tool until it is told that there is rain.\"""

    def __init__(self, *, model, folder):
        super().__init__()
        self.tokenizer = model.tokenizer

    def answer(self, requests):
        return [[self._said(self.tokenizer.decode(r.ids), r.stop_ids[0])] for r in requests]

    def _said(self, prompt, end):
        text = "It rains." if "Rain." in prompt else f"Let me look.\\n<tool_call>\\n{CALL}\\n</tool_call>"
        return Completion((*self.tokenizer(text, add_special_tokens=False)["input_ids"], end), text, "stop")
"""
LETTERS = """
from tk import component
from tk.contracts import Request, Sampling
from tk.sample import Message


@component("rewards", "letters")
def letters(batch):
    return [sum("a" <= c <= "z" for c in m.text) / max(1, len(m.text)) for m in batch.completions]


@component("rewards", "judged")
async def judged(batch):
    asked = [Request(messages=[Message("user", m.text or "?")], sampling=Sampling(max_tokens=4)) for m in batch.completions]
    answers = await batch.engines["judge"].generate(asked)
    batch.note("verdict", [own[0].text for own in answers])
    return [float(len(own[0].text)) for own in answers]
"""


def test_a_run_is_rolled_out_by_an_endpoint(url: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(16)))
    (tmp_path / "letters.py").write_text(LETTERS)
    config = {
        "model": str(base),
        "template": "chatml",
        "data": str(tmp_path / "rows.jsonl"),
        "plugins": {"files": [str(tmp_path / "letters.py")]},
        "method": {"name": "grpo", "correction": "sequence_mask"},
        "rewards": {"letters": 1.0, "judged": 0.0},
        "engines": {"judge": {"name": "openai", "url": url}},
        "tuner": {"name": "lora", "rank": 4},
        "sampling": {"n": 4, "temperature": 0.9, "max_tokens": 8},
        "train": {"steps": 3, "batch_size": 4, "micro_batch_size": 4},
        "optim": {"lr": 2e-2},
        "eval": {"generate": 2},
    }
    engine = {"name": "openai", "url": url}
    apart = tk.train({**config, "engine": engine, "output": {"dir": str(tmp_path / "apart")}})
    lines = [json.loads(line) for line in (tmp_path / "apart" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "engine_ratio" in line]
    assert len(steps) == apart.steps == 3
    assert all(line["engine_ratio"] == pytest.approx(1, abs=1e-4) for line in steps)
    samples = [json.loads(line) for line in (tmp_path / "apart" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 12
    # the same run on the module itself samples the same answers: the endpoint had the weights of every step
    tk.train({**config, "output": {"dir": str(tmp_path / "own")}})
    own = [json.loads(line) for line in (tmp_path / "own" / "samples.jsonl").read_text().splitlines()]
    theirs, ours = ([[a["answer"] for a in row["answers"]] for row in each] for each in (samples, own))
    assert theirs == ours


def test_a_judge_is_asked_by_messages(url: str, tmp_path: Path) -> None:
    engine = opened(url, None, tmp_path)
    dispatcher = Dispatcher(engine)
    try:
        asked = [Request(messages=[Message("user", text)], sampling=Sampling(max_tokens=6, n=2)) for text in ("a", "b")]
        answers = asyncio.run(dispatcher.generate(asked))
        assert [len(own) for own in answers] == [2, 2]
        assert all(c.text and c.finish_reason in ("length", "stop") for own in answers for c in own)
        with pytest.raises(UsageError, match="asked by messages"):
            asyncio.run(dispatcher.generate([Request([5, 6])]))
    finally:
        dispatcher.close()


def test_an_endpoint_may_have_less_room_than_the_model(base: Path, tmp_path: Path) -> None:
    short = tiny_checkpoint(tmp_path / "short", "llama", vocab=300, max_position_embeddings=64)
    with tk.serve(model=str(short), template="chatml", server={"port": 0}) as serving:
        engine = opened(f"{serving.url}/v1", base, tmp_path)
        try:
            wrong, cut = generate_each(engine, [Request([5] * 80), Request([5] * 60, Sampling(max_tokens=99))])
            assert str(wrong) == "A prompt of 80 tokens fills the engine's 64 positions: shorten it."
            assert not isinstance(cut, RequestError)
            assert len(cut[0].ids) <= 4
        finally:
            engine.close()


def test_a_conversation_without_room_is_its_own_fault(url: str, tmp_path: Path) -> None:
    engine = opened(url, None, tmp_path)
    try:
        texts = ("a", "long " * 900, "b")
        asked = [Request(messages=[Message("user", text)], sampling=Sampling(max_tokens=6, n=2)) for text in texts]
        first, wrong, last = generate_each(engine, asked)
        assert isinstance(wrong, RequestError)
        assert "are the limit" in str(wrong)
        assert [len(own) for own in (first, last) if not isinstance(own, RequestError)] == [2, 2]
    finally:
        engine.close()


def test_a_judge_that_has_no_model_of_its_own_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "letters.py").write_text(LETTERS)
    config = {"model": str(base), "template": "chatml", "data": str(tmp_path / "rows.jsonl"), "rewards": "judged"}
    plugin = {"files": [str(tmp_path / "letters.py")]}
    with pytest.raises(UsageError, match="engines.judge: transformers answers with the run's own model only"):
        tk.infer(**config, engines={"judge": "transformers"}, plugins=plugin)


def test_a_busy_endpoint_is_asked_again(base: Path, tmp_path: Path) -> None:
    server = {"port": 0, "max_requests": 2}
    with tk.serve(model=str(base), template="chatml", server=server) as serving:
        engine = opened(f"{serving.url}/v1", base, tmp_path, max_requests=6, retries=60)
        try:
            found = generate(engine, [Request(ids, Sampling(max_tokens=30)) for ids in PROMPTS * 6])
            assert len({own[0].ids for own in found}) == 2
        finally:
            engine.close()


def test_a_key_is_taken_from_the_environment_and_its_lack_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    with tk.serve(model=str(base), template="chatml", server={"port": 0, "api_keys": ["abc"]}) as serving:
        for key in (None, "abc"):
            if key:
                monkeypatch.setenv("SECRET", key)
            engine = opened(f"{serving.url}/v1", base, tmp_path, key_variable="SECRET")
            try:
                if key:
                    assert generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=2))])[0][0].ids
                else:
                    with pytest.raises(UsageError, match="environment variable SECRET"):
                        generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=2))])
            finally:
                engine.close()


def test_faults_of_the_way_are_told(base: Path, tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="begins with http"):
        OpenAIOptions(url="localhost:8000")
    for address, options, message in (
        ("http://127.0.0.1:9/v1", {"retries": 0}, "cannot be reached"),
        (url, {"model": "other"}, "There is no model 'other'"),
        (url.removesuffix("/v1"), {"model": "x"}, r"Is `url` right \(up to /v1\)"),
    ):
        engine = opened(address, base, tmp_path, **options)
        try:
            with pytest.raises(TkError, match=message):
                generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=2))])
        finally:
            engine.close()


def test_one_without_token_ids_answers_and_does_not_train(plain_url: str, base: Path, tmp_path: Path) -> None:
    engine = opened(plain_url, base, tmp_path, timeout=2.0, retries=0)
    try:
        completion = generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=9))])[0][0]
        assert (completion.text, completion.finish_reason) == ("hello", "stop")
        assert engine.model is not None
        assert completion.ids == tuple(engine.model.tokenizer.encode("hello"))
        with pytest.raises(TkError, match=r"tells no token ids \(return_token_ids\)"):
            generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=9, logprobs=True))])
        with pytest.raises(TkError, match="no answer in 2 seconds"):
            generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=99))])
        with pytest.raises(TkError, match="no answer in 2 seconds"):  # one that is still coming
            generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=77))])
        with pytest.raises(TkError, match="cannot be reached"):
            generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=88))])
    finally:
        engine.close()
    again = opened(plain_url, base, tmp_path, retries=0)
    assert generate(again, [Request(PROMPTS[0], Sampling(max_tokens=88))])[0][0].text == "hello"
    again.close()


def test_one_that_breaks_off_before_it_has_said_anything_is_asked_again(
    plain_url: str, base: Path, tmp_path: Path
) -> None:
    engine = opened(plain_url, base, tmp_path, retries=1)
    try:
        assert generate(engine, [Request(PROMPTS[0], Sampling(max_tokens=88))])[0][0].text == "hello"
    finally:
        engine.close()


def test_messages_are_written_with_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    message = Message(
        "user",
        (Part("text", "what?"), Part("image", source=str(tmp_path / "a.jpg")), Part("image", source="https://x/y.png")),
    )
    options = OpenAIOptions(url="http://x/v1", extra={"reasoning": "low"})
    body = chat_body(Request(messages=[message], sampling=Sampling(seed=0, stop=("x",))), "m", options)
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,anBlZw=="}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]
    assert (body["seed"], body["stop"], body["extra_body"]) == (0, ["x"], {"reasoning": "low"})
    with pytest.raises(UsageError, match="answers no call"):
        chat_body(Request(messages=[Message("tool", "x")]), "m", options)


def test_calls_have_names_and_their_answers_the_same() -> None:
    looks = ToolCall("look", {"at": "Zürich"})
    messages = [
        Message("user", "Is it?"),
        Message("assistant", "", (looks, ToolCall("look", {}, "call_1"), looks)),
        Message("tool", "no", tool_call_id="call_1"),
        Message("tool", "yes"),
        Message("tool", "maybe"),
        Message("assistant", "Again.", (looks,)),
        Message("tool", "yes"),
    ]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body = chat_body(Request(messages=messages, tools=[tool, tool["function"]]), "m", OpenAIOptions(url="http://x/v1"))
    _, first, *answers, again, last = body["messages"]
    assert body["tools"] == [tool, tool]
    assert first["content"] is None
    assert [call["id"] for call in first["tool_calls"]] == ["call_0", "call_1", "call_2"]
    assert json.loads(first["tool_calls"][0]["function"]["arguments"]) == {"at": "Zürich"}
    assert [one["tool_call_id"] for one in answers] == ["call_1", "call_0", "call_2"]
    assert (again["content"], again["tool_calls"][0]["id"], last["tool_call_id"]) == ("Again.", "call_3", "call_3")
    with pytest.raises(UsageError, match="answers no call"):
        chat_body(Request(messages=[*messages, Message("tool", "x")]), "m", OpenAIOptions(url="http://x/v1"))


def test_calls_of_tools_come_in_pieces(plain_url: str, tmp_path: Path) -> None:
    engine = opened(plain_url, None, tmp_path, model="plain")
    asked = Request(messages=[Message("user", "x")], tools=[{"type": "function", "function": {"name": "look"}}])
    try:
        ((made,),) = generate(engine, [asked])
        assert made.tool_calls == (ToolCall("look", {"at": "a"}, "c1"), ToolCall("rest", {}, "c2"))
        assert (made.text, made.finish_reason) == ("Let me see.", "stop")
        ((cut,),) = generate(engine, [replace(asked, sampling=Sampling(max_tokens=99))])
        assert (cut.tool_calls, cut.finish_reason) == ((ToolCall("rest", {}, "c2"),), "length")
        assert cut.text == 'Let me see.{"name": "look", "arguments": {"at": "Zü'
    finally:
        engine.close()


def test_a_server_reads_its_calls_and_is_told_what_came_of_them(base: Path, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "caller", "llama", vocab=300, max_position_embeddings=4096)
    (tmp_path / "said.py").write_text(SAID)
    plugin = {"files": [str(tmp_path / "said.py")]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    user = Message("user", "Is it raining?")
    with tk.serve(model=str(folder), template="chatml", engine="said", plugins=plugin, server={"port": 0}) as serving:
        engine = opened(f"{serving.url}/v1", None, tmp_path)
        try:
            ((made,),) = generate(engine, [Request(messages=[user], tools=[tool])])
            (call,) = made.tool_calls
            assert (made.text, call.name, call.arguments) == ("Let me look.", "weather", {"city": "Zürich"})
            turns = [
                user,
                Message("assistant", made.text, made.tool_calls),
                Message("tool", "Rain.", tool_call_id=call.id),
            ]
            ((last,),) = generate(engine, [Request(messages=turns, tools=[tool])])
            assert (last.text, last.tool_calls) == ("It rains.", ())
        finally:
            engine.close()
