"""Driving engines: batches, streams and many at once, over one that says its prompts backwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import pytest

from tk.capabilities import CAPABILITIES
from tk.contracts import Completion, Delta, Engine, Request, Sampling
from tk.dispatch import Dispatcher
from tk.engines import Base, Batched, generate, generate_each, stream
from tk.errors import RequestError, TkError, UsageError


class Backwards(Base):
    """A token of each answer a step; 0 cannot be said, 13 breaks the engine, 14 breaks it at once, 15 in forgetting it.

    16 is the request's own fault.
    """

    def __init__(self) -> None:
        self.keys, self.flying = count(), dict[tuple[int, int], Iterator[Delta]]()
        self.threads: set[int] = set()
        self.closed = False
        self.clinging: set[int] = set()

    def add(self, request: Request) -> int:
        if not request.ids:
            raise RequestError("A prompt is empty.")
        if 14 in request.ids:
            raise ValueError("fourteen")
        key = next(self.keys)
        self.clinging |= {key} if 15 in request.ids else set()
        for number in range(request.sampling.n):
            self.flying[key, number] = self._said(request, key, number)
        return key

    def step(self) -> list[Delta]:
        self.threads.add(threading.get_ident())
        deltas = [next(pieces) for pieces in self.flying.values()]
        for delta in deltas:
            if delta.finish_reason:
                del self.flying[delta.key, delta.number]
        return deltas

    def cancel(self, key: int) -> None:
        if key in self.clinging:
            raise IndexError("fifteen")
        self.flying = {at: pieces for at, pieces in self.flying.items() if at[0] != key}

    def close(self) -> None:
        self.closed = True

    def _said(self, request: Request, key: int, number: int) -> Iterator[Delta]:
        *rest, last = list(reversed(request.ids))[: request.sampling.max_tokens]
        for token in rest:
            yield self._piece(token, key, number)
        yield self._piece(last, key, number, "length")

    def _piece(self, token: int, key: int, number: int, reason: str = "") -> Delta:
        if token == 13:
            raise RuntimeError("thirteen")
        if token == 0:
            return Delta("", (), "error", key, number, error=TkError("Nothing cannot be said."))
        if token == 16:
            error = RequestError("Sixteen is too much.", too_long=True)
            return Delta("", (), "error", key, number, error=error)
        return Delta(f"{token} ", (token,), reason, key, number, (-float(number),), 3)  # type: ignore[arg-type]


@pytest.fixture
def engine() -> Backwards:
    return Backwards()


def asked(*ids: int, n: int = 1, logprobs: bool = False) -> Request:
    return Request(ids, Sampling(n=n, logprobs=logprobs))


def test_a_batch_is_answered_in_its_order(engine: Backwards) -> None:
    assert isinstance(engine, Engine)
    found = generate(engine, [asked(1, 2), asked(3, 4, 5, n=2, logprobs=True), asked(6)])
    assert found == [
        [Completion((2, 1), "2 1 ", "length", None, 3)],
        [Completion((5, 4, 3), "5 4 3 ", "length", (-float(k),) * 3, 3) for k in range(2)],
        [Completion((6,), "6 ", "length", None, 3)],
    ]
    assert generate(engine, []) == []


@pytest.mark.parametrize(
    ("bad", "message"), [(asked(), "A prompt is empty"), (asked(0, 1), "Nothing cannot"), (asked(13, 1), "thirteen")]
)
def test_of_a_batch_that_fails_nothing_is_left(engine: Backwards, bad: Request, message: str) -> None:
    with pytest.raises((TkError, RuntimeError), match=message):
        generate(engine, [asked(*range(20, 40)), bad])
    assert not engine.flying


def test_a_stream_that_is_left_or_fails_is_cancelled(engine: Backwards) -> None:
    assert [delta.text for delta in stream(engine, asked(1, 2, 3))] == ["3 ", "2 ", "1 "]
    pieces = stream(engine, asked(1, 2, 3))
    next(pieces)
    pieces.close()
    stream(engine, asked(1, 2, 3))  # nobody asks for a piece of it
    with pytest.raises(TkError, match="Nothing"):
        list(stream(engine, asked(5, 0, 1)))
    assert not engine.flying
    with pytest.raises(UsageError, match="n = 2"):
        stream(engine, asked(1, n=2))


def test_any_number_of_requests_is_answered_in_their_order_and_few_are_on_their_way(engine: Backwards) -> None:
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for number in range(300):
            taken += 1
            yield asked(*range(20, 21 + (300 - number) % 7), n=1 + number % 2)

    for number, answers in enumerate(generate_each(engine, requests(), ahead=8)):
        assert [len(c.ids) for c in answers] == [1 + (300 - number) % 7] * (1 + number % 2)
        assert taken <= number + 1 + 8
    assert (taken, engine.flying) == (300, {})
    begun = generate_each(engine, requests(), ahead=8)
    next(begun)
    begun.close()
    assert not engine.flying


def test_requests_that_alone_are_at_fault_have_an_error_and_the_others_their_answers(engine: Backwards) -> None:
    wanted = [asked(), asked(1, 2), asked(3, 4, 16, n=2), asked(5), asked(16), asked()]
    found = list(generate_each(engine, wanted, ahead=3))
    assert [str(one) if isinstance(one, RequestError) else one[0].ids for one in found] == [
        "A prompt is empty.",
        (2, 1),
        "Sixteen is too much.",
        (5,),
        "Sixteen is too much.",
        "A prompt is empty.",
    ]
    assert not engine.flying
    with pytest.raises(RequestError, match="Sixteen"):
        generate(engine, [asked(*range(20, 40)), asked(16)])
    with pytest.raises(RequestError, match="Sixteen"):
        list(stream(engine, asked(16)))
    assert not engine.flying


def test_who_asks_while_a_stream_is_open_is_told(engine: Backwards) -> None:
    pieces = stream(engine, asked(1, 2, 3))
    next(pieces)
    with pytest.raises(TkError, match="from elsewhere as well"):
        generate(engine, [asked(4, 5)])
    assert len(engine.flying) == 1


def test_engines_that_can_do_less_say_so(engine: Backwards) -> None:
    with pytest.raises(UsageError, match="no vectors"):
        engine.score([asked(1)])
    with pytest.raises(UsageError, match="cannot be replaced"):
        engine.update((), 1)


def test_an_engine_of_batches_answers_at_the_next_step() -> None:
    class Twice(Batched):
        def answer(self, requests: Sequence[Request]) -> list[list[Completion]]:
            if any(not r.ids for r in requests):
                raise RequestError("Empty.")
            return [[Completion(tuple(r.ids) * 2, "", "stop") for _ in range(r.sampling.n)] for r in requests]

    engine = Twice()
    assert generate(engine, [asked(1, n=2), asked(2)]) == [
        [Completion((1, 1), "", "stop")] * 2,
        [Completion((2, 2), "", "stop")],
    ]
    key = engine.add(asked(1))
    engine.cancel(key)
    assert engine.step() == []
    with pytest.raises(TkError, match="Empty"):
        generate(engine, [asked(1), asked()])
    first, wrong, last = generate_each(engine, [asked(1), asked(n=2), asked(2)])
    assert ([first[0].ids, last[0].ids], str(wrong)) == ([(1, 1), (2, 2)], "Empty.")  # type: ignore[index]


def test_one_error_is_enough_for_all_completions_of_a_request_which_is_forgotten() -> None:
    class Once(Backwards):
        def step(self) -> list[Delta]:
            return [delta for delta in super().step() if delta.error is None or delta.number == 1]

    engine = Once()
    wrong, answered = generate_each(engine, [asked(*range(20, 30), 16, n=2), asked(*range(20, 31))])
    assert str(wrong) == "Sixteen is too much."
    assert not isinstance(answered, RequestError)
    assert not engine.flying


@pytest.fixture
def dispatcher(engine: Backwards) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(engine)
    yield dispatcher
    dispatcher.close()
    assert engine.closed


def test_many_ask_at_once_and_the_engine_stays_in_its_thread(engine: Backwards, dispatcher: Dispatcher) -> None:
    async def all_of_them() -> list[list[list[Completion]]]:
        return await asyncio.gather(*(dispatcher.generate([asked(*range(20, 21 + k), n=2)]) for k in range(40)))

    found = asyncio.run(all_of_them())
    assert [c.ids for ((c, _),) in found] == [tuple(range(20 + k, 19, -1)) for k in range(40)]
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_who_fails_fails_alone(dispatcher: Dispatcher) -> None:
    async def together() -> list[object]:
        return await asyncio.gather(
            *(dispatcher.generate([r]) for r in (asked(1, 2, 3, 4), asked(), asked(0, 1))), return_exceptions=True
        )

    good, empty, nothing = asyncio.run(together())
    assert isinstance(good, list)
    assert "A prompt is empty" in str(empty)
    assert "Nothing cannot" in str(nothing)


def test_an_engine_that_breaks_fails_all_and_answers_the_next(engine: Backwards, dispatcher: Dispatcher) -> None:
    async def asking() -> None:
        both = (dispatcher.generate([r]) for r in (asked(*range(20, 60)), asked(13, 1, 2)))
        for failed in await asyncio.gather(*both, return_exceptions=True):
            assert "thirteen" in str(failed)
        assert not engine.flying
        ((again,),) = await dispatcher.generate([asked(7)])
        assert again.text == "7 "

    asyncio.run(asking())


@pytest.mark.parametrize(("ids", "message"), [((14,), "fourteen"), ((*range(20, 60), 15, 13), "thirteen")])
def test_an_engine_that_breaks_where_it_should_not_is_asked_again(
    dispatcher: Dispatcher, ids: Sequence[int], message: str
) -> None:
    """When a request is given, and when it is to forget one that it has failed on."""

    async def asking() -> None:
        with pytest.raises(TkError, match=message):
            await dispatcher.generate([asked(*ids)])
        dispatcher.call(lambda engine: engine.flying.clear())  # type: ignore[attr-defined]
        ((again,),) = await dispatcher.generate([asked(7)])
        assert again.text == "7 "

    asyncio.run(asyncio.wait_for(asking(), 5))


def test_who_leaves_is_forgotten(engine: Backwards, dispatcher: Dispatcher) -> None:
    async def leaving() -> None:
        long = asked(*([5] * 200_000))
        async for place, delta in dispatcher.stream([Request(long.ids, Sampling(max_tokens=200_000)), asked(1)]):
            assert (place, delta.text) in ((0, "5 "), (1, "1 "))
            break
        while await asyncio.wrap_future(dispatcher.call(lambda e: len(e.flying))):  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(leaving(), 5))


def test_who_leaves_has_no_place_after_the_step_that_runs(engine: Backwards) -> None:
    gate, held = threading.Semaphore(0), list[int]()

    class Gated(Backwards):
        def step(self) -> list[Delta]:
            gate.acquire()
            held.append(len(self.flying))
            return super().step()

    dispatcher = Dispatcher(Gated())

    async def leaving() -> None:
        pieces = dispatcher.stream([asked(*range(20, 60), n=3)])
        gate.release()
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        other = asyncio.ensure_future(dispatcher.generate([asked(7)]))
        for _ in range(2):
            await asyncio.sleep(0)
            gate.release()
        ((answer,),) = await other
        assert answer.text == "7 "

    asyncio.run(asyncio.wait_for(leaving(), 5))
    assert held in ([3, 1], [3, 3, 1]), "at most the step that was under way still had it"
    dispatcher.close()


def test_some_that_are_meant_end_and_the_others_go_on(dispatcher: Dispatcher) -> None:
    async def ending() -> list[object]:
        long = Request([5] * 20_000, Sampling(max_tokens=20_000))
        both = [asyncio.ensure_future(dispatcher.generate([r])) for r in (replace(long, adapter="gone"), long)]
        await asyncio.sleep(0.01)
        dispatcher.call(lambda _: dispatcher.end(lambda request: request.adapter == "gone", TkError("It has gone.")))
        return await asyncio.gather(*both, return_exceptions=True)

    failed, found = asyncio.run(asyncio.wait_for(ending(), 30))
    assert str(failed) == "It has gone."
    assert isinstance(found, list)
    assert len(found[0][0].ids) == 20_000


def test_an_engine_says_what_more_it_can_and_a_request_what_it_needs() -> None:
    plain = Request([1], Sampling(temperature=0.5, top_k=3, repetition_penalty=1.2, logprobs=True))
    more = Sampling(logprobs=True, top_logprobs=2, presence_penalty=0.5, min_p=0.1, logit_bias={"3": 1.0})
    assert plain.needs == {}
    assert {**Request([1], more, prompt_logps=True, model_logps=True).needs} == {
        "prompt-logprobs": "prompt_logps",
        "model-logprobs": "model_logps",
        "top-logprobs": "top_logprobs",
        "penalties": "presence_penalty",
        "min-p": "min_p",
        "logit-bias": "logit_bias",
    }
    assert all(word in CAPABILITIES for word in Request([1], more, prompt_logps=True, model_logps=True).needs)
    with pytest.raises(ValueError, match="set logprobs"):
        Sampling(top_logprobs=2)


def test_what_is_called_runs_between_steps_and_its_error_comes_back(engine: Backwards, dispatcher: Dispatcher) -> None:
    assert dispatcher.call(lambda e: e is engine and threading.get_ident()).result(5) != threading.get_ident()
    with pytest.raises(UsageError, match="no vectors"):
        dispatcher.call(lambda e: e.score([])).result(5)


def test_what_is_on_its_way_fails_when_the_engine_is_closed(engine: Backwards) -> None:
    dispatcher, heard = Dispatcher(engine), list[Delta]()
    dispatcher.submit(Request([5] * 1_000_000, Sampling(max_tokens=1_000_000)), heard.append)
    while not heard:
        pass
    dispatcher.close()
    assert str(heard[-1].error) == "The engine is closed."
