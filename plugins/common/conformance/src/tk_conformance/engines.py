"""Behaviour of engines: limits, stops, seeds, streams, and requests that come and go."""

from __future__ import annotations

from collections.abc import Sequence

from tk.contracts import Completion, Delta, Engine, Request, Sampling
from tk.engines import generate, generate_each, stream
from tk.errors import RequestError
from tk.testing.need import need

TOKENS = 12


def check_engine(
    engine: Engine, prompts: Sequence[Sequence[int]], *, streams: bool = True, most: int | None = None
) -> None:
    """Limits, stop tokens and strings, greedy decoding, seeds, several completions, log-probs, company, and streams.

    prompts: at least two, of different lengths, whose greedy answers run for 12 tokens without an end token.
    most: positions of the model, which a prompt and its answer have to fit into.
    """
    free = [_one(engine, Request(ids, Sampling(max_tokens=TOKENS, temperature=0))) for ids in prompts]
    for completion in free:
        need(len(completion.ids) == TOKENS, f"max_tokens = {TOKENS} gave {len(completion.ids)} tokens")
        need(completion.finish_reason == "length", "a completion that reached max_tokens says it was stopped")
    together = generate(engine, [Request(ids, Sampling(max_tokens=TOKENS, temperature=0)) for ids in prompts])
    need([c[0].ids for c in together] == [c.ids for c in free], "greedy tokens depend on what runs beside them")
    _check_stops(engine, prompts[0], free[0])
    _check_seeds(engine, prompts)
    _check_company(engine, prompts[0], prompts[1], free[1])
    if most is not None:
        _check_room(engine, prompts[0], most)
    if streams:
        _check_stream(engine, prompts[0])


def _one(engine: Engine, request: Request) -> Completion:
    (completions,) = generate(engine, [request])
    need(len(completions) == request.sampling.n, f"n = {request.sampling.n} gave {len(completions)} completions")
    return completions[0]


def _check_stops(engine: Engine, prompt: Sequence[int], free: Completion) -> None:
    greedy = Sampling(max_tokens=TOKENS, temperature=0)
    stop = free.ids[TOKENS // 2]
    end = free.ids.index(stop) + 1
    stopped = _one(engine, Request(prompt, greedy, stop_ids=(stop,)))
    need(stopped.ids == free.ids[:end], "a stop token does not end a completion, or is not among its ids")
    need(stopped.finish_reason == "stop", "a completion that a stop token ended says it ran out of length")
    need(free.text.startswith(stopped.text), "the text before a stop token differs")
    if len(free.text) < 2:
        return
    word = free.text[len(free.text) // 2 :][:2]
    cut = _one(engine, Request(prompt, Sampling(max_tokens=TOKENS, temperature=0, stop=(word,))))
    need(cut.text == free.text[: free.text.index(word)], f"the text is not cut before the stop string {word!r}")
    need(cut.finish_reason == "stop", "a completion that a stop string ended says it ran out of length")


def _check_seeds(engine: Engine, prompts: Sequence[Sequence[int]]) -> None:
    requests = [
        Request(ids, Sampling(max_tokens=TOKENS, temperature=1.0, seed=seed, n=2, logprobs=True))
        for seed, ids in enumerate(prompts)
    ]
    together = generate(engine, requests)
    alone = [generate(engine, [request])[0] for request in requests]
    ids = [[c.ids for c in completions] for completions in together]
    need(ids == [[c.ids for c in completions] for completions in alone], "a seed does not make a result its own")
    need(any(a != b for a, b in ids), "two completions of one request are always the same")
    for completion in (c for completions in together for c in completions):
        logps = completion.logps
        need(logps is not None and len(logps) == len(completion.ids), "log-probs are not one a token")
        need(all(logp <= 0 for logp in logps or ()), "a log-prob is above 0")


def _check_company(engine: Engine, prompt: Sequence[int], other: Sequence[int], free: Completion) -> None:
    greedy = Sampling(max_tokens=TOKENS, temperature=0)
    left = engine.add(Request(prompt, greedy))
    engine.step()
    kept = engine.add(Request(other, greedy))
    engine.cancel(left)
    engine.cancel(left)
    found: list[Delta] = []
    while not (found and found[-1].finish_reason):
        found += engine.step()
    need({delta.key for delta in found} == {kept}, "something comes of a request that was cancelled")
    need(
        tuple(i for d in found for i in d.ids) == free.ids,
        "a request that comes later, or a cancelled one, changes tokens",
    )


def _check_room(engine: Engine, prompt: Sequence[int], most: int) -> None:
    greedy = Sampling(max_tokens=TOKENS, temperature=0)
    long = [prompt[0]] * most
    wrong, cut = generate_each(engine, [Request(long, greedy), Request(long[2:], greedy)])
    need(isinstance(wrong, RequestError), "a prompt without room is not refused as the request's own fault")
    need(not isinstance(cut, RequestError) and len(cut[0].ids) <= 2, "an answer goes on beyond the model's positions")


def _check_stream(engine: Engine, prompt: Sequence[int]) -> None:
    request = Request(prompt, Sampling(max_tokens=TOKENS, temperature=1.0, seed=3))
    whole, deltas = _one(engine, request), list(stream(engine, request))
    need("".join(d.text for d in deltas) == whole.text, "the pieces of a stream are not the text of generate")
    need(tuple(i for d in deltas for i in d.ids) == whole.ids, "the tokens of a stream are not those of generate")
    reasons = [delta.finish_reason for delta in deltas]
    need(reasons[-1] == whole.finish_reason and not any(reasons[:-1]), "not the last piece alone has a finish reason")


def come_and_go(engine: Engine, plan: Sequence[tuple[int, Request, bool]]) -> tuple[dict[int, Request], list[Delta]]:
    """Each request so many steps after the one before; one that leaves is cancelled when the next comes.

    The requests that stay, by their keys, and what came of all until those had ended.
    """
    deltas: list[Delta] = []
    kept: dict[int, Request] = {}
    leaving = None
    for steps, request, leaves in plan:
        for _ in range(steps):
            deltas += engine.step()
        if leaving is not None:
            engine.cancel(leaving)
        key = engine.add(request)
        leaving = key if leaves else None
        if not leaves:
            kept[key] = request
    left = sum(request.sampling.n for request in kept.values())
    while left > sum(bool(delta.finish_reason) for delta in deltas if delta.key in kept):
        deltas += engine.step()
    return kept, deltas
