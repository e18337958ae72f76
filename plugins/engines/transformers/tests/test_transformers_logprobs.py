"""Log-probs that are told beside tokens: of prompts, of the likeliest in each place, of the model or of what is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tk.contracts import Completion, Delta, LoadedModel, Request, Sampling
from tk.engines import generate
from tk.errors import UsageError
from tk_auto.family import AutoFamily
from tk_conformance.engines import come_and_go
from tk_conformance.tiny import tiny_checkpoint
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

LONG = tuple(range(20, 60))
ONE = (5, 6, 7, 8)


@pytest.fixture(scope="module", params=("llama", "gpt2", "gemma3_text", "mistral", "mamba"))
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Of models with windows, these are far shorter than what is read."""
    sizes = {"sliding_window": 4} if request.param in ("gemma3_text", "mistral") else {}
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m") / request.param, request.param, vocab=300, **sizes)
    return AutoFamily().load(str(folder))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return AutoFamily().load(str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", "llama", vocab=300)))


def engine_of(model: LoadedModel, **options: Any) -> TransformersEngine:
    return TransformersEngine(TransformersOptions(**options), model=model)


def forward(model: LoadedModel, ids: Sequence[int]) -> Tensor:
    """Log-probs [L, V] of what follows each token, by a plain forward of the module."""
    with torch.no_grad():
        return model.module.eval()(input_ids=torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)


def check_prompt(model: LoadedModel, request: Request, deltas: Sequence[Delta]) -> None:
    """The first piece tells what a plain forward says, and no other."""
    told = deltas[0].prompt
    assert told is not None
    assert not any(delta.prompt for delta in deltas[1:])
    expected, targets = forward(model, request.ids)[:-1], torch.tensor(list(request.ids[1:]), dtype=torch.long)
    assert list(told.logps) == pytest.approx(expected.gather(1, targets[:, None])[:, 0].tolist(), abs=1e-4)
    count = request.sampling.top_logprobs
    assert len(told.top) == (len(targets) if count else 0)
    values = expected.topk(count).values
    for place, top in enumerate(told.top):
        assert [value for _, value in top] == pytest.approx(values[place].tolist(), abs=1e-4)
        assert [value for _, value in top] == pytest.approx([expected[place, i].item() for i, _ in top], abs=1e-4)


PROMPT = st.one_of(
    st.lists(st.integers(3, 299), min_size=1, max_size=12),
    st.tuples(st.integers(1, 40), st.lists(st.integers(3, 299), max_size=3)).map(lambda p: [*LONG[: p[0]], *p[1]]),
)
REQUEST = st.builds(
    lambda ids, tokens, temperature, n, top, told: Request(
        ids,
        Sampling(
            max_tokens=tokens if told else max(tokens, 1),
            temperature=temperature,
            seed=1,
            n=n,
            logprobs=True,
            top_logprobs=top,
        ),
        stop_ids=(2,),
        prompt_logps=told,
    ),
    PROMPT,
    st.integers(0, 4),
    st.sampled_from([0.0, 0.7]),
    st.integers(1, 3),
    st.integers(0, 4),
    st.sampled_from([True, True, False]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(st.tuples(st.integers(0, 3), REQUEST, st.booleans()), min_size=1, max_size=6),
    places=st.integers(1, 8),
    reads=st.sampled_from([1, 7, 64]),
)
def test_log_probs_of_a_prompt_are_those_of_a_plain_forward_in_any_mix(
    model: LoadedModel, plan: Sequence[tuple[int, Request, bool]], places: int, reads: int
) -> None:
    """Beginnings are shared with requests that ask for none, and some requests leave before they are read."""
    engine = engine_of(model, max_batch=places, max_read=reads, prefix_cache=64)
    kept, deltas = come_and_go(engine, plan)
    for key, request in kept.items():
        for number in range(request.sampling.n):
            own = [delta for delta in deltas if (delta.key, delta.number) == (key, number)]
            assert own[-1].finish_reason
            assert (sum(len(delta.ids) for delta in own) == 0) == (request.sampling.max_tokens == 0)
            if request.prompt_logps:
                check_prompt(model, request, own)
            else:
                assert not any(delta.prompt for delta in own)


def answered(model: LoadedModel, sampling: Sampling, **asked: Any) -> Completion:
    return generate(engine_of(model), [Request(ONE, sampling, stop_ids=(299,), **asked)])[0][0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_likeliest_tokens_stand_beside_each(model: LoadedModel, temperature: float) -> None:
    found = answered(model, Sampling(8, temperature, seed=3, logprobs=True, top_logprobs=5))
    expected = forward(model, (*ONE, *found.ids))[len(ONE) - 1 : -1]
    values, ids = expected.topk(5)
    assert found.top is not None
    assert [[token for token, _ in top] for top in found.top] == ids.tolist()
    for place, top in enumerate(found.top):
        assert [value for _, value in top] == pytest.approx(values[place].tolist(), abs=1e-4)
        if temperature == 0:
            assert top[0] == (found.ids[place], found.logps[place] if found.logps else None), "the very same number"


def test_the_sampled_distribution_and_the_model_are_told_apart(llama: LoadedModel) -> None:
    sampling = Sampling(8, 0.7, top_k=3, seed=3, logprobs=True, top_logprobs=5, repetition_penalty=1.3)
    sampled, model = answered(llama, sampling), answered(llama, sampling, model_logps=True)
    assert sampled.ids == model.ids
    assert sampled.top
    assert model.top
    assert {len(top) for top in sampled.top} == {3}, "what cannot be sampled is not told"
    assert {len(top) for top in model.top} == {5}
    expected = forward(llama, (*ONE, *model.ids))[len(ONE) - 1 : -1]
    own = expected.gather(1, torch.tensor(model.ids)[:, None])[:, 0].tolist()
    assert model.logps == pytest.approx(own, abs=1e-4)
    assert sampled.logps != pytest.approx(own, abs=1e-2)
    for place, top in enumerate(sampled.top):
        assert sum(torch.tensor([value for _, value in top]).exp()) == pytest.approx(1, abs=1e-5)
        assert dict(top)[sampled.ids[place]] == (sampled.logps or ())[place]


def test_a_prompt_may_fill_the_model_where_nothing_is_generated(llama: LoadedModel) -> None:
    ids = [5 + i % 200 for i in range(llama.max_length or 0)]
    request = Request(ids, Sampling(0), prompt_logps=True)
    (found,) = generate(engine_of(llama), [request])[0]
    assert (found.ids, found.text, found.finish_reason) == ((), "", "length")
    check_prompt(llama, request, [Delta("", prompt=found.prompt)])


def test_no_tokens_are_for_prompts_that_are_told_only(llama: LoadedModel) -> None:
    with pytest.raises(UsageError, match=r"sampling.max_tokens: 0 is out of bounds"):
        engine_of(llama).add(Request(ONE, Sampling(0)))


def test_a_beginning_is_not_read_again_for_the_completions_of_one_request(llama: LoadedModel) -> None:
    counts: list[int] = []
    generate(engine_of(llama), [Request(ONE, Sampling(1))])
    engine = engine_of(llama)
    generate(engine, [Request(LONG, Sampling(1), stop_ids=(299,))])
    hook = llama.module.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        generate(engine, [Request(LONG, Sampling(1, 1.0, seed=1, n=4), stop_ids=(299,), prompt_logps=True)])
    finally:
        hook.remove()
    assert counts == [len(LONG), 3], "what was kept of it has no log-probs; its own reading has"


def test_completions_of_one_request_that_change_places_while_they_read_tell_the_same(llama: LoadedModel) -> None:
    engine = engine_of(llama, max_batch=3, max_read=1)
    asked = [Request(ids, Sampling(0, n=n), prompt_logps=True) for ids, n in (([3], 1), ([20], 1), ([298, 3, 3], 3))]
    keys = [engine.add(request) for request in asked]
    deltas: list[Delta] = []
    while engine.in_flight:
        deltas += engine.step()
    for number in range(3):
        check_prompt(llama, asked[2], [d for d in deltas if (d.key, d.number) == (keys[2], number)])
