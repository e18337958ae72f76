"""Requests that come and go while others are on their way: nobody's result depends on the company."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tk.contracts import Completion, Delta, LoadedModel, Request, Sampling
from tk.engines import generate, stream
from tk.errors import TkError
from tk_auto.family import AutoFamily
from tk_conformance.engines import come_and_go
from tk_conformance.tiny import tiny_checkpoint
from tk_transformers.batches import SlotBatch, WholeBatch
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

ARCHITECTURES = ("llama", "gpt2", "gemma3_text", "mistral", "mamba")
LONG = tuple(range(20, 60))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Of models with windows, these are far shorter than what is generated."""
    sizes = {"sliding_window": 4} if request.param in ("gemma3_text", "mistral") else {}
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m") / request.param, request.param, vocab=300, **sizes)
    return AutoFamily().load(str(folder))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return AutoFamily().load(str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", "llama", vocab=300)))


def engine_of(model: LoadedModel, **options: Any) -> TransformersEngine:
    return TransformersEngine(TransformersOptions(**options), model=model)


def alone(model: LoadedModel, request: Request) -> list[Completion]:
    return generate(engine_of(model, prefix_cache=0), [request])[0]


@contextmanager
def tokens_read(model: LoadedModel) -> Iterator[list[int]]:
    """Tokens of each forward while it is entered."""
    counts: list[int] = []
    hook = model.module.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield counts
    finally:
        hook.remove()


def drained(engine: TransformersEngine) -> list[Delta]:
    """What comes until nothing is on its way."""
    found: list[Delta] = []
    while engine.in_flight:
        found += engine.step()
    return found


PROMPT = st.one_of(
    st.lists(st.integers(3, 299), min_size=1, max_size=12),
    st.tuples(st.integers(1, 40), st.lists(st.integers(3, 299), max_size=3)).map(
        lambda p: [*LONG[: p[0]], *p[1]] or [5]
    ),
)
REQUEST = st.builds(
    lambda ids, tokens, temperature, seed, n, penalty: Request(
        ids,
        Sampling(max_tokens=tokens, temperature=temperature, seed=seed, n=n, repetition_penalty=penalty, logprobs=True),
        stop_ids=(2,),
    ),
    PROMPT,
    st.integers(1, 9),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 3),
    st.integers(1, 3),
    st.sampled_from([1.0, 1.3]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(st.tuples(st.integers(0, 3), REQUEST, st.booleans()), min_size=1, max_size=6),
    places=st.integers(1, 8),
    reads=st.sampled_from([1, 7, 64]),
)
def test_a_result_is_the_same_alone_and_in_any_mix(
    model: LoadedModel, plan: Sequence[tuple[int, Request, bool]], places: int, reads: int
) -> None:
    """Each comes some steps after the one before, and may be cancelled when the next one comes."""
    engine = engine_of(model, max_batch=places, max_read=reads, prefix_cache=64)
    kept, deltas = come_and_go(engine, plan)
    for key, request in kept.items():
        for number, expected in enumerate(alone(model, request)):
            own = [delta for delta in deltas if (delta.key, delta.number) == (key, number)]
            assert tuple(i for delta in own for i in delta.ids) == expected.ids
            assert "".join(delta.text for delta in own) == expected.text
            assert [logp for delta in own for logp in delta.logps] == pytest.approx(expected.logps, abs=1e-4)
            assert [delta.finish_reason for delta in own][-1] == expected.finish_reason


def test_only_models_that_keep_more_than_keys_and_values_answer_batch_by_batch(model: LoadedModel) -> None:
    engine = engine_of(model)
    engine.add(Request([5, 6], Sampling(max_tokens=3)))
    engine.step()
    assert type(engine._batch) is (WholeBatch if model.module.config.model_type == "mamba" else SlotBatch)


def test_a_request_that_comes_later_is_not_waited_for(llama: LoadedModel) -> None:
    engine = engine_of(llama)
    long = engine.add(Request([5, 6], Sampling(max_tokens=40), stop_ids=(299,)))
    engine.step()
    short = engine.add(Request([7, 8, 9], Sampling(max_tokens=2), stop_ids=(299,)))
    keys = [{delta.key for delta in engine.step()} for _ in range(3)]
    assert keys == [{long, short}, {long, short}, {long}]


def test_a_cancelled_request_leaves_its_place_at_once(llama: LoadedModel) -> None:
    engine = engine_of(llama, max_batch=1)
    first = engine.add(Request([5, 6], Sampling(max_tokens=40), stop_ids=(299,)))
    second = engine.add(Request([7, 8], Sampling(max_tokens=3), stop_ids=(299,)))
    engine.step()
    engine.cancel(first)
    assert [delta.key for delta in engine.step()] == [second]
    engine.cancel(first)
    engine.cancel(second)
    assert (engine.step(), engine.in_flight) == ([], 0)


def test_a_stream_that_is_left_cancels_its_request(llama: LoadedModel) -> None:
    engine = engine_of(llama)
    pieces = stream(engine, Request([5, 6], Sampling(max_tokens=40), stop_ids=(299,)))
    next(pieces)
    assert engine.in_flight == 1
    pieces.close()
    assert engine.in_flight == 0


def test_a_beginning_is_read_once(llama: LoadedModel) -> None:
    """By requests that come together, by one that comes while another is on its way, and after it has ended."""
    engine = engine_of(llama)
    sampling = Sampling(max_tokens=2)
    generate(engine, [Request([5], sampling)])
    ids = [[*LONG, 100 + number] for number in range(5)]
    with tokens_read(llama) as counts:
        generate(engine, [Request(own, sampling, stop_ids=(299,)) for own in ids[:3]])
        assert counts == [41, 1, 2, 2], "the others wait for the first, and read what differs"
        counts.clear()
        (made,) = generate(engine, [Request(ids[3], sampling, stop_ids=(299,))])[0]
        assert counts == [1, 1]
    assert made == alone(llama, Request(ids[3], sampling, stop_ids=(299,)))[0]


def test_a_beginning_outlives_the_row_that_has_read_it(llama: LoadedModel) -> None:
    """The first of six answers ends with its first token."""
    engine = engine_of(llama, prefix_cache=0)
    generate(engine, [Request([5], Sampling(max_tokens=2))])
    with tokens_read(llama) as counts:
        found = generate(engine, [Request(LONG, Sampling(max_tokens=1, temperature=1.0, seed=0, n=6))])[0]
    assert counts == [len(LONG), 5]
    assert found == alone(llama, Request(LONG, Sampling(max_tokens=1, temperature=1.0, seed=0, n=6)))


def test_a_talk_goes_on_where_it_was(llama: LoadedModel) -> None:
    engine = engine_of(llama)
    sampling = Sampling(max_tokens=6)
    (made,) = generate(engine, [Request(LONG, sampling, stop_ids=(299,))])[0]
    further = Request([*LONG, *made.ids, 9, 10], sampling, stop_ids=(299,))
    with tokens_read(llama) as counts:
        again = generate(engine, [further])[0]
    assert counts[0] == 3, "the last token of the answer, and the two new ones"
    assert again == alone(llama, further)


def test_other_weights_have_read_nothing(tmp_path: Path) -> None:
    one, two = (AutoFamily().load(str(tiny_checkpoint(tmp_path / str(s), vocab=300, seed=s))) for s in (0, 1))
    request = Request(LONG, Sampling(max_tokens=6), stop_ids=(299,))
    expected = alone(two, request)
    engine = engine_of(one)
    generate(engine, [request])
    engine.update(two.module.state_dict().items(), 1)
    assert generate(engine, [request])[0] == [replace(c, policy_version=1) for c in expected]
    other = engine_of(one)
    generate(other, [request])
    one.module.load_state_dict(AutoFamily().load(one.path).module.state_dict())
    other.update((), 5)
    assert generate(other, [request])[0] == [replace(c, policy_version=5) for c in alone(one, request)]


def test_what_other_weights_have_read_is_not_gone_on_from(tmp_path: Path) -> None:
    """Of answers that are on their way when the weights change, neither while they are there nor when they have ended."""
    one, two = (AutoFamily().load(str(tiny_checkpoint(tmp_path / str(s), vocab=300, seed=s))) for s in (0, 1))
    request = Request(LONG, Sampling(max_tokens=6), stop_ids=(299,))
    expected = [replace(c, policy_version=1) for c in alone(two, request)]
    engine = engine_of(one)
    before = engine.add(Request(LONG, Sampling(max_tokens=20, n=2), stop_ids=(299,)))
    ended = engine.add(Request(LONG, Sampling(max_tokens=4), stop_ids=(299,)))
    engine.step()
    engine.update(two.module.state_dict().items(), 1)
    after = engine.add(request)
    deltas = drained(engine)
    assert {delta.key for delta in deltas if delta.finish_reason} == {before, ended, after}
    assert tuple(i for d in deltas if d.key == after for i in d.ids) == expected[0].ids
    assert generate(engine, [request])[0] == expected


def test_weights_that_do_not_fit_are_not_answered_with(tmp_path: Path) -> None:
    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m", vocab=300)))
    engine, request = engine_of(model), Request(LONG, Sampling(max_tokens=6), stop_ids=(299,))
    expected = generate(engine, [request])[0]
    whole = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(TkError, match="no weight named 'other'"):
        engine.update([("other", torch.zeros(1))], 1)
    assert generate(engine, [request])[0] == expected
    with pytest.raises(TkError, match="no weight named 'other'"):
        engine.update([(name, value + 1) for name, value in whole.items()] + [("other", torch.zeros(1))], 1)
    with pytest.raises(TkError, match="a part of other weights"):
        generate(engine, [request])
    engine.update(whole.items(), 2)
    assert generate(engine, [request])[0] == [replace(c, policy_version=2) for c in expected]


def test_the_memory_of_requests_goes_with_the_last_of_them(model: LoadedModel) -> None:
    """At once, not when Python happens to look for what holds one another."""
    engine = engine_of(model, prefix_cache=0)
    engine.add(Request([5, 6, 7], Sampling(max_tokens=3), stop_ids=(299,)))
    engine.step()
    assert isinstance(engine._batch, SlotBatch | WholeBatch)
    cache = weakref.ref(engine._batch._cache)
    gc.disable()
    try:
        drained(engine)
        assert cache() is None
    finally:
        gc.enable()


def test_long_prompts_are_read_in_pieces_while_others_go_on(llama: LoadedModel) -> None:
    engine = engine_of(llama, max_read=10)
    first = engine.add(Request([5, 6], Sampling(max_tokens=9), stop_ids=(299,)))
    engine.step()
    second = engine.add(Request(LONG, Sampling(max_tokens=2), stop_ids=(299,)))
    with tokens_read(llama) as counts:
        keys = [[delta.key for delta in engine.step()] for _ in range(5)]
    assert keys == [[first]] * 3 + [[first, second]] * 2
    assert max(counts) == 10


def test_no_more_are_kept_than_there_is_room_for(llama: LoadedModel) -> None:
    engine = engine_of(llama, prefix_cache=100)
    for start in range(5):
        generate(engine, [Request([start + 3] * 40, Sampling(max_tokens=2), stop_ids=(299,))])
    assert sum(len(kept.ids) for kept in engine._prefixes._kept.values()) <= 100
    assert len(engine._prefixes._kept) == 2
