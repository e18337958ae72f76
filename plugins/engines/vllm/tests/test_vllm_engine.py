"""vLLM in its own environment: the tokens of the engine `transformers`, adapters, new weights, and training with it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tk
from tk.contracts import Completion, Delta, LoadedModel, Request, Sampling
from tk.engines import AdapterFolders, generate, generate_each
from tk.errors import RequestError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.engines import check_engine
from tk_conformance.tiny import tiny_checkpoint
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions
from tk_vllm.engine import VllmEngine
from tk_vllm.options import VllmOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the first makes the environment

ARGS = {"max_model_len": 512, "max_num_seqs": 16, "enforce_eager": True}
ENV = {"VLLM_CPU_KVCACHE_SPACE": "1"}
PROMPTS = ([5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 40, 41])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m") / "llama"
    return tiny_checkpoint(folder, "llama", vocab=300, head_dim=32, max_position_embeddings=1024)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    torch.manual_seed(1)
    module = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    module.save_pretrained(base.parent / "adapter")
    return base.parent / "adapter"


def opened(model: LoadedModel, python: str, folder: Path) -> VllmEngine:
    return VllmEngine(VllmOptions(python=python, args=ARGS, env=ENV), model=model, folder=folder)


@pytest.fixture(scope="module")
def engine(
    base: Path, adapter: Path, vllm_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmEngine]:
    model = AutoFamily().load(str(base), device="meta")
    model.adapters = AdapterFolders()
    model.adapters.add("loud", adapter)
    made = opened(model, vllm_python, tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


def here(model: LoadedModel) -> TransformersEngine:
    return TransformersEngine(TransformersOptions(), model=model)


def greedy(engine: Any, adapter: str = "") -> list[Completion]:
    requests = [Request(ids, Sampling(max_tokens=16, logprobs=True), adapter=adapter) for ids in PROMPTS]
    return [each[0] for each in generate(engine, requests)]


def same(ours: list[Completion], theirs: list[Completion]) -> bool:
    close = all(
        a == pytest.approx(b, abs=1e-3)
        for c, d in zip(ours, theirs, strict=True)
        for a, b in zip(c.logps or (), d.logps or (), strict=True)
    )
    return close and [c.ids for c in ours] == [c.ids for c in theirs]


def test_it_behaves_as_an_engine(engine: VllmEngine) -> None:
    check_engine(engine, PROMPTS, most=512)


def test_log_probs_are_of_the_sampled_distribution(engine: VllmEngine, base: Path) -> None:
    sampling = Sampling(max_tokens=12, temperature=0.7, top_k=5, seed=3, logprobs=True)
    completion = generate(engine, [Request(PROMPTS[1], sampling)])[0][0]
    module = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[*PROMPTS[1], *completion.ids]])
    with torch.no_grad():
        logits = module(input_ids=ids).logits[0, len(PROMPTS[1]) - 1 : -1] / 0.7
    kept = logits.topk(5, -1).values[:, -1:]
    expected = logits.masked_fill(logits < kept, -torch.inf).log_softmax(-1)
    expected = expected.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
    assert completion.logps == pytest.approx(expected.tolist(), abs=1e-4)


def test_what_shifts_tokens_does_so_as_in_this_process(engine: VllmEngine, base: Path) -> None:
    sampling = Sampling(
        max_tokens=12,
        logprobs=True,
        top_logprobs=3,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        repetition_penalty=1.3,
        logit_bias={"17": 1.5},
    )
    requests = [Request(ids, sampling) for ids in PROMPTS]
    ours, theirs = (generate(one, requests) for one in (here(AutoFamily().load(str(base))), engine))
    for (a,), (b,) in zip(ours, theirs, strict=True):
        assert a.ids == b.ids
        assert a.top is not None
        assert b.top is not None
        assert [[token for token, _ in place] for place in a.top] == [[token for token, _ in place] for place in b.top]


def test_adapters_are_answered_by_name(engine: VllmEngine, base: Path, adapter: Path) -> None:
    plain, loud = greedy(engine), greedy(engine, "loud")
    assert same(plain, greedy(here(AutoFamily().load(str(base)))))
    model = AutoFamily().load(str(base))
    model.module = AutoModelForCausalLM.from_pretrained(base)
    model.module.load_adapter(str(adapter))
    assert [c.ids for c in loud] == [c.ids for c in greedy(here(model))]
    assert [c.ids for c in loud] != [c.ids for c in plain]
    with pytest.raises(UsageError, match="There is no adapter 'quiet': loud"):
        engine.add(Request(PROMPTS[0], adapter="quiet"))


def test_new_weights_are_served_and_proved(engine: VllmEngine, base: Path, vllm_python: str, tmp_path: Path) -> None:
    model = AutoFamily().load(str(base))
    first, before = engine._linked().call("digest"), greedy(engine)
    engine.update(model.module.state_dict().items(), 1)
    assert engine.digest == first  # the checkpoint's own again
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    engine.update(model.module.state_dict().items(), 2)
    after = greedy(engine)
    assert engine.digest != first
    assert [c.ids for c in after] != [c.ids for c in before]
    assert same(after, greedy(here(model)))
    assert {c.policy_version for c in after} == {2}
    AutoFamily().save(model, tmp_path / "written")
    whole = opened(AutoFamily().load(str(tmp_path / "written"), device="meta"), vllm_python, tmp_path / "engine")
    try:  # one that begins with these weights serves the same
        assert same(greedy(whole), after)
    finally:
        whole.close()


def test_what_other_weights_have_read_is_not_gone_on_from(base: Path, engine: VllmEngine) -> None:
    """Nor where an answer is on its way when the weights change."""
    model, ids = AutoFamily().load(str(base)), [7, *range(20, 298)]  # more than a block of vLLM's cache
    engine.update(model.module.state_dict().items(), 3)
    before = engine.add(Request(ids, Sampling(max_tokens=60)))
    while not any(delta.ids for delta in engine.step()):
        pass
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    engine.update(model.module.state_dict().items(), 4)
    after, found = engine.add(Request(ids, Sampling(max_tokens=16))), list[int]()
    left = {before, after}
    while left:
        for delta in engine.step():
            found += delta.ids if delta.key == after else ()
            left -= {delta.key} if delta.finish_reason else set()
    expected = generate(here(model), [Request(ids, Sampling(max_tokens=16))])[0][0].ids
    assert tuple(found) == tuple(expected)


def test_a_prompt_without_room_is_its_own_fault(engine: VllmEngine) -> None:
    wrong, answered = generate_each(engine, [Request([5] * 600), Request([5] * 500, Sampling(max_tokens=99))])
    assert str(wrong) == "A prompt of 600 tokens fills the engine's 512 positions: shorten it."
    assert not isinstance(answered, RequestError)
    assert len(answered[0].ids) == 12


def test_what_its_parser_refuses_is_told(base: Path, vllm_python: str, tmp_path: Path) -> None:
    options = VllmOptions(python=vllm_python, args={"max_model_lem": 12}, env=ENV)
    with pytest.raises(UsageError, match=r"engine.args: vLLM's parser says: .*max-model-lem"):
        VllmEngine(options, model=AutoFamily().load(str(base), device="meta"), folder=tmp_path)


def test_a_real_model_gives_the_tokens_of_transformers(vllm_python: str) -> None:
    sections: dict[str, Any] = {
        "model": "smollm2-135m-instruct",
        "data": {"sources": {"questions": {"path": "chatterbot", "first": 50}}},
        "sampling": {"max_tokens": 24, "logprobs": True},
    }
    there = {"name": "vllm", "python": vllm_python, "args": ARGS, "env": ENV}
    ours, theirs = list(tk.infer(**sections)), list(tk.infer(**sections, engine=there))
    assert len(ours) == len(theirs) == 50
    differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if (a.text, a.tokens) != (b.text, b.tokens)]
    for a, b in differing:
        print(f"{a.origin}: {a.text!r}, and by vLLM {b.text!r}")
    assert len(differing) <= 2  # where two tokens are as likely as each other
    logps = [
        pair
        for a, b in zip(ours, theirs, strict=True)
        if a.text == b.text
        for pair in zip(a.logps, b.logps, strict=True)
    ]  # type: ignore[arg-type]
    assert max(abs(a - b) for a, b in logps) < 1e-3


def test_grpo_learns_with_its_answers(base: Path, vllm_python: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {word}"}) + "\n" for word in "abcdefghijklmnop"))
    letters = tmp_path / "letters.py"
    letters.write_text(
        "from tk import component\n\n\n@component('rewards', 'letters')\ndef letters(batch):\n"
        "    return [sum('a' <= c <= 'z' for c in m.text) / max(1, len(m.text)) for m in batch.completions]\n"
    )
    result = tk.train(
        model=str(base),
        template="chatml",
        data=str(rows),
        plugins={"files": [str(letters)]},
        method={"name": "grpo", "correction": "token_truncate"},
        rewards="letters",
        tuner={"name": "lora", "rank": 4},
        sampling={"n": 4, "temperature": 1.0, "max_tokens": 8},
        engine={"name": "vllm", "python": vllm_python, "args": ARGS, "env": ENV},
        train={"steps": 3, "batch_size": 4, "micro_batch_size": 4},
        optim={"lr": 1e-2},
        eval={"generate": 2},
        output={"dir": str(tmp_path / "run")},
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "engine_ratio" in line]
    assert len(steps) == result.steps == 3
    assert all(line["engine_ratio"] == pytest.approx(1, abs=1e-3) for line in steps)
    assert all(line["engine_gap"] < 1e-3 for line in steps)
    assert len(list((tmp_path / "run" / "engine").glob("vllm-*.log"))) == 1
    assert not list((tmp_path / "run" / "engine").glob("weights-*"))
    # what the run has trained is what the engine answers with afterwards
    run = {"run": tmp_path / "run", "data": str(rows), "sampling": {"n": 1, "temperature": 0, "max_tokens": 8}}
    there = [a.text for a in tk.infer(**run)]
    own = [a.text for a in tk.infer(**run, engine="transformers")]
    assert there == own


def test_a_worker_that_is_killed_is_begun_anew(base: Path, vllm_python: str, tmp_path: Path) -> None:
    model = AutoFamily().load(str(base))
    engine = opened(model, vllm_python, tmp_path)
    try:
        with torch.no_grad():
            model.module.get_input_embeddings().weight.mul_(1.5)
        engine.update(model.module.state_dict().items(), 4)
        digest, before = engine.digest, greedy(engine)
        engine.add(Request(PROMPTS[0], Sampling(max_tokens=400)))
        os.kill(engine._linked().pid, signal.SIGKILL)  # type: ignore[attr-defined]
        failed: list[Delta] = []
        while not failed:
            failed = [delta for delta in engine.step() if delta.error]
        assert "SIGKILL" in str(failed[0].error)
        assert [c.ids for c in greedy(engine)] == [c.ids for c in before]
        assert engine.digest == digest
    finally:
        engine.close()
