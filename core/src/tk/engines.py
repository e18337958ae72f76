"""Driving engines: a batch of requests, or one as a stream; and what engines share that can do less than all."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tk.contracts import Completion, Delta, Engine, PromptLogps, Request, Top
from tk.errors import RequestError, TkError, UsageError
from tk.sample import ToolCall

if TYPE_CHECKING:
    from torch import Tensor


AHEAD = 256
"""Requests that are given to an engine before the first of them is answered."""


@dataclass
class Growing:
    """A completion of which some pieces have come."""

    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)
    prompt: PromptLogps | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    def add(self, delta: Delta) -> None:
        self.ids += delta.ids
        self.text.append(delta.text)
        self.logps += delta.logps
        self.top += delta.top
        self.prompt = self.prompt or delta.prompt
        self.tool_calls += delta.tool_calls

    def completion(self, request: Request, last: Delta) -> Completion:
        """What it has come to with its last piece."""
        logps = tuple(self.logps) if request.sampling.logprobs else None
        top = tuple(self.top) if request.sampling.top_logprobs else None
        ids, text = tuple(self.ids), "".join(self.text)
        return Completion(ids, text, last.finish_reason, logps, last.policy_version, top, self.prompt, self.tool_calls)


def generate(engine: Engine, requests: Sequence[Request]) -> list[list[Completion]]:
    """`sampling.n` completions of each request, in order; the longest prompts are begun first.

    Raises TkError for a request that cannot be served; the others are cancelled.
    """
    order = sorted(range(len(requests)), key=lambda place: -len(requests[place].ids))
    answers = _each(engine, (requests[place] for place in order), len(requests), at_once=True)
    with closing(answers):
        found = dict(zip(order, answers, strict=True))
    return [cast(list[Completion], found[place]) for place in range(len(requests))]


def generate_each(
    engine: Engine, requests: Iterable[Request], ahead: int = AHEAD
) -> Generator[list[Completion] | RequestError]:
    """As `generate`, for any number of requests: they are taken as the engine gets on, and answered in their order.

    One that alone is at fault is answered by that error, and the others by their completions.
    ahead: requests that may be on their way at once, those included that wait for one before them.
    """
    return _each(engine, requests, ahead, at_once=False)


def _each(
    engine: Engine, requests: Iterable[Request], ahead: int, *, at_once: bool
) -> Generator[list[Completion] | RequestError]:
    """at_once: raise a RequestError when it is heard, as any other."""
    coming, waiting = iter(requests), deque[_Waiting]()
    by_key: dict[int, _Waiting] = {}
    try:
        while True:
            while len(waiting) < ahead and (request := next(coming, None)) is not None:
                waiting.append(_Waiting(request))
                try:
                    by_key[engine.add(request)] = waiting[-1]
                except RequestError as error:
                    if at_once:
                        raise
                    waiting[-1].refused = error
            if not waiting:
                return
            while waiting and waiting[0].whole:
                yield waiting.popleft().answer()
            for delta in _deltas(engine, by_key) if by_key else ():
                if delta.error is not None and (at_once or not isinstance(delta.error, RequestError)):
                    raise delta.error
                by_key[delta.key].add(delta)
            for key in [key for key, own in by_key.items() if own.whole]:
                if by_key.pop(key).refused:
                    engine.cancel(key)
    finally:
        for key in by_key:
            engine.cancel(key)


class _Waiting:
    """A request, and what has come of it. refused: why there is no answer."""

    def __init__(self, request: Request) -> None:
        self.refused: RequestError | None = None
        self._request = request
        self._growing = [Growing() for _ in range(request.sampling.n)]
        self._done: dict[int, Completion] = {}

    @property
    def whole(self) -> bool:
        return self.refused is not None or len(self._done) == self._request.sampling.n

    def add(self, delta: Delta) -> None:
        if isinstance(delta.error, RequestError):
            self.refused = delta.error
            return
        own = self._growing[delta.number]
        own.add(delta)
        if delta.finish_reason:
            self._done[delta.number] = own.completion(self._request, delta)

    def answer(self) -> list[Completion] | RequestError:
        return self.refused or [self._done[number] for number in range(self._request.sampling.n)]


def stream(engine: Engine, request: Request) -> Iterator[Delta]:
    """One completion in pieces of whole characters; the pieces joined are `generate`'s text.

    The engine is asked when the first piece is.
    """
    if request.sampling.n != 1:
        raise UsageError(f"Only one completion can be streamed at a time, not n = {request.sampling.n}.")
    return _pieces(engine, request)


def _pieces(engine: Engine, request: Request) -> Iterator[Delta]:
    key, ended = engine.add(request), False
    try:
        while not ended:
            for delta in _deltas(engine, (key,)):
                if delta.error is not None:
                    raise delta.error
                ended = bool(delta.finish_reason)
                yield delta
    finally:
        if not ended:
            engine.cancel(key)


def _deltas(engine: Engine, keys: Container[int]) -> Iterator[Delta]:
    """What is new of requests that alone are on their way. Raises TkError where there are others."""
    for delta in engine.step():
        if delta.key not in keys:
            raise TkError(
                "The engine has been asked from elsewhere as well: several may ask it through tk.dispatch only."
            )
        yield delta


@dataclass
class AdapterFolders:
    """Adapters of an engine that reads them itself (tk.contracts.Adapters). folders: by name, where each was saved."""

    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.folders)

    def add(self, name: str, folder: Path) -> None:
        if not name or name in self.folders:
            raise UsageError(f"An adapter cannot be called {name!r}: the name is taken.")
        if not (folder / "adapter_config.json").is_file():
            raise TkError(f"{folder} holds no adapter: there is no adapter_config.json.")
        self.folders[name] = folder.resolve()

    def remove(self, name: str) -> None:
        if name not in self.folders:
            raise UsageError(f"There is no adapter {name!r}: {', '.join(self.folders) or 'none is loaded'}.")
        del self.folders[name]

    def chosen(self, names: Sequence[str]) -> Mapping[str, Any]:
        raise TkError("These adapters belong to an engine elsewhere: no module here computes with them.")


class Base:
    """What an engine has that generates only, with weights that stay: the rest of `tk.contracts.Engine`."""

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        raise UsageError("This engine generates only: it gives no scores and no vectors.")

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        raise UsageError("This engine's weights cannot be replaced.")

    def sleep(self) -> None:
        """Nothing is kept between requests."""

    def close(self) -> None:
        """Nothing is held."""


class Batched(Base):
    """An engine that answers batches: a subclass says how. What was added is answered whole at the next step."""

    def __init__(self) -> None:
        self._keys = count()
        self._waiting: dict[int, Request] = {}

    def answer(self, requests: Sequence[Request]) -> Sequence[Sequence[Completion]]:
        """`sampling.n` completions of each request, in order."""
        raise NotImplementedError

    def add(self, request: Request) -> int:
        key = next(self._keys)
        self._waiting[key] = request
        return key

    def step(self) -> list[Delta]:
        waiting, self._waiting = self._waiting, {}
        return self._answered(waiting) if waiting else []

    def _answered(self, waiting: Mapping[int, Request]) -> list[Delta]:
        """The pieces of a batch; where one request is at fault, each is answered by itself."""
        try:
            answers = self.answer(list(waiting.values()))
        except TkError as error:
            if isinstance(error, RequestError) and len(waiting) > 1:
                return [delta for key, request in waiting.items() for delta in self._answered({key: request})]
            return [
                Delta("", (), "error", key, n, error=error) for key, r in waiting.items() for n in range(r.sampling.n)
            ]
        return [
            Delta(
                c.text,
                c.ids,
                c.finish_reason,
                key,
                number,
                c.logps or (),
                c.policy_version,
                top=c.top or (),
                prompt=c.prompt,
                tool_calls=c.tool_calls,
            )
            for key, completions in zip(waiting, answers, strict=True)
            for number, c in enumerate(completions)
        ]

    def cancel(self, key: int) -> None:
        self._waiting.pop(key, None)
