"""Penalties for what an answer has said, biases of tokens, and min-p: held against their formulas in float64."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper

from tk.contracts import Completion, LoadedModel, Request, Sampling
from tk.engines import generate
from tk.errors import UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

PROMPT = (5, 6, 7, 5, 6, 7)
TOKENS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return AutoFamily().load(str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)))


def answered(model: LoadedModel, *asked: Sampling) -> list[Completion]:
    requests = [Request(PROMPT, sampling, stop_ids=(299,)) for sampling in asked]
    engine = TransformersEngine(TransformersOptions(), model=model)
    return [completions[0] for completions in generate(engine, requests)]


def shifted(logits: Tensor, said: tuple[int, ...], sampling: Sampling) -> Tensor:
    """OpenAI's definition, mu[j] - c[j] · frequency - (c[j] > 0) · presence over the answer, with vLLM's order of the rest."""
    logits = logits.double().clone()
    for token, bias in sampling.logit_bias.items():
        logits[int(token)] += bias
    for token in {*PROMPT, *said}:
        value = logits[token]
        logits[token] = value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
    for token, count in Counter(said).items():
        logits[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    return logits


@pytest.mark.parametrize(
    "asked",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -0.4, "presence_penalty": 0.3},
        {"logit_bias": {"5": 4.0, "17": -3.0}},
        {"frequency_penalty": 0.6, "presence_penalty": 0.9, "repetition_penalty": 1.3, "logit_bias": {"9": 2.5}},
    ],
)
def test_greedy_answers_are_those_of_the_formula(model: LoadedModel, asked: dict[str, Any]) -> None:
    sampling = Sampling(TOKENS, logprobs=True, **asked)
    found, plain, again = answered(model, sampling, Sampling(TOKENS), sampling)
    assert found == again, "alone or beside others"
    assert found.ids != plain.ids
    for place, token in enumerate(found.ids):
        said = found.ids[:place]
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([[*PROMPT, *said]])).logits[0, -1]
        expected = shifted(logits, said, sampling)
        assert token == int(expected.argmax())
        assert (found.logps or ())[place] == pytest.approx(expected.log_softmax(-1)[token].item(), abs=1e-4)


@pytest.mark.parametrize("asked", [{"min_p": 0.3}, {"min_p": 0.6, "temperature": 1.7}, {"min_p": 0.5, "top_k": 4}])
def test_min_p_leaves_what_transformers_leaves(model: LoadedModel, asked: dict[str, Any]) -> None:
    sampling = Sampling(
        **{"max_tokens": 1, "temperature": 1.0, "seed": 1, "logprobs": True, "top_logprobs": 300, **asked}
    )
    (found,) = answered(model, sampling)
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([PROMPT])).logits[:, -1]
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    warpers.append(MinPLogitsWarper(sampling.min_p))
    expected = warpers(None, logits)[0].log_softmax(-1)
    kept = {i: value for i, value in enumerate(expected.tolist()) if value > -math.inf}
    assert 1 < len(kept) < 300
    assert dict((found.top or ((),))[0]) == pytest.approx(kept, abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"logit_bias": {"300": 1.0}}, "sampling.logit_bias"),
        ({"logit_bias": {"x": 1.0}}, "sampling.logit_bias"),
        ({"min_p": 1.5}, "sampling.min_p"),
    ],
)
def test_what_is_out_of_bounds_is_told(model: LoadedModel, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        answered(model, Sampling(4, **asked))


def test_a_config_may_ask_for_all_of_it(tmp_path: Path) -> None:
    import tk

    model = tiny_checkpoint(tmp_path / "m", vocab=300)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "one two"}\n')
    sampling = {
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {70: 100.0},
        "presence_penalty": 0.1,
    }
    (answer,) = tk.infer(model=str(model), data=str(tmp_path / "rows.jsonl"), sampling=sampling)
    assert answer.text
    assert [len(top) for top in answer.top or ()] == [2] * 4
    assert {top[0][0] for top in answer.top or ()} == {70}
