"""An engine that runs elsewhere, as `tk.contracts.Engine`: tk tokenises, decodes and stops, and hears of tokens only."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from tk.contracts import Delta, LoadedModel, Request
from tk.engines import Base
from tk.errors import TkError, UsageError
from tk_remote.links import Event, Link, LostError
from tk_remote.weights import written
from tk_text.asked import checked, seed_of, stops
from tk_text.stream import TextStream

WAIT = 0.05
"""Seconds that a step waits for something to come."""


@dataclass(eq=False)
class _Asked:
    """One of a request's completions on its way."""

    key: int
    number: int
    request: Request
    stop_ids: frozenset[int]
    stream: TextStream
    ids: list[int] = field(default_factory=list)


class Remote(Base):
    """Requests to an engine over a link, which is opened anew where it is lost.

    open: opens the link. restarts: how often it may be lost. folder: where weights lie on their way.
    name: of the engine, for errors.
    """

    def __init__(
        self, name: str, open: Callable[[], Link], *, model: LoadedModel, folder: Path, restarts: int = 3
    ) -> None:
        self.model = model
        self.version = 0
        self._name, self._open_link, self._folder, self._left = name, open, folder, restarts
        self._keys, self._writes, self._seeds = count(), count(1), random.SystemRandom()
        self._asked: dict[str, _Asked] = {}
        self._failed: list[Delta] = []
        self._weights: Path | None = None
        self.digest = ""
        self._link: Link | None = open()

    def add(self, request: Request) -> int:
        checked(request, self.model)
        if request.media:
            raise UsageError(f"The engine {self._name} takes text only: use the engine transformers.")
        if request.prompt_logps or request.model_logps:
            raise UsageError(f"The engine {self._name} tells log-probs of what it samples only.")
        stop_ids, texts = stops(request, self.model)
        link, key = self._linked(), next(self._keys)
        limit = checked(request, self.model, link.about.get("max_length"))
        for number in range(request.sampling.n):
            name = f"{key}-{number}"
            self._asked[name] = _Asked(key, number, request, stop_ids, TextStream(self.model.tokenizer, texts))
            try:
                link.add(**self._plain(name, number, request, limit, stop_ids))
            except LostError as error:
                self._drop(key)
                self._lost(error)
                raise
        return key

    def step(self) -> list[Delta]:
        failed, self._failed = self._failed, []
        if failed or not self._asked or self._link is None:
            return failed
        try:
            events = self._link.events(WAIT)
        except LostError as error:
            self._lost(error)
            return self.step()
        return [delta for event in events for delta in self._heard(event)]

    def cancel(self, key: int) -> None:
        self._failed = [delta for delta in self._failed if delta.key != key]
        for name in self._drop(key):
            if self._link is not None:
                self._link.cancel(name)

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Write the tensors as safetensors, and have the engine read them. What it serves then is told as a digest.

        They are kept until the next ones, for an engine that has to begin anew. Where they cannot be read, those before them
        are served on, by an engine that begins anew.
        """
        folder = written(weights, self._folder / f"weights-{os.getpid()}-{next(self._writes)}")
        before = self._weights
        try:
            self.digest = self._again_if_lost(lambda link: self._given(link, folder, version))
        except BaseException as error:
            if isinstance(error, TkError):
                self._lost(error)  # nobody knows what it holds
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)
        self._weights, self.version = folder, version
        return self.digest

    def sleep(self) -> None:
        try:
            if self._link is not None:
                self._link.call("sleep")
        except LostError as error:  # its memory is free
            self._lost(error)

    def close(self) -> None:
        self._asked.clear()
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._weights is not None:
            shutil.rmtree(self._weights, ignore_errors=True)

    def _plain(self, name: str, number: int, request: Request, limit: int, stop_ids: frozenset[int]) -> dict[str, Any]:
        """A request as an engine elsewhere takes it: one completion, by plain values."""
        own = request.sampling.seed
        seed = seed_of(own if own is not None else self._seeds.getrandbits(48), number)
        adapters: Any = self.model.adapters
        return {
            "request": name,
            "ids": list(request.ids),
            "sampling": asdict(request.sampling) | {"max_tokens": limit, "seed": seed, "stop": [], "n": 1},
            "stop_ids": sorted(stop_ids),
            "adapter": [request.adapter, str(adapters.folders[request.adapter])] if request.adapter else [],
        }

    def _heard(self, event: Event) -> list[Delta]:
        """What came of a completion, up to where a text ends it; an event of one that was cancelled says nothing."""
        asked = self._asked.get(event["request"])
        if asked is None:
            return []
        if event["finish"] == "error":
            del self._asked[event["request"]]
            kind = UsageError if event.get("refused") else TkError
            error = kind(f"The engine {self._name}: {event['error']}")
            return [Delta("", (), "error", asked.key, asked.number, error=error)]
        text, ids, finish = "", list(event["ids"]), event["finish"]
        for place, token in enumerate(ids):
            asked.ids.append(token)
            ended = token in asked.stop_ids
            if not ended:
                text += asked.stream.push(token)
                ended = asked.stream.stopped
            if ended:
                ids, finish = ids[: place + 1], "stop"
                if self._link is not None and not event["finish"]:
                    self._link.cancel(event["request"])
                break
        if finish:
            text += asked.stream.finish()
            del self._asked[event["request"]]
        if not (text or ids or finish):
            return []
        sampling = asked.request.sampling
        logps = tuple(event["logps"][: len(ids)]) if sampling.logprobs else ()
        told = event.get("top", ())[: len(ids)] if sampling.top_logprobs else ()
        top = tuple(tuple((int(token), float(logp)) for token, logp in place) for place in told)
        return [Delta(text, tuple(ids), finish, asked.key, asked.number, logps, self.version, top=top)]

    def _lost(self, error: TkError) -> None:
        """Everything on its way has failed, which the next step tells; the next request begins it anew."""
        lost, self._asked = list(self._asked.values()), {}
        self._failed += [Delta("", (), "error", asked.key, asked.number, error=error) for asked in lost]
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _linked(self) -> Link:
        """The link, opened anew where it was lost, with the weights that were given last. Raises LostError past the bound."""
        if self._link is None:
            link = self._opened()
            try:
                self._restore(link)
            except BaseException:
                link.close()
                raise
            self._link = link
        return self._link

    def _restore(self, link: Link) -> None:
        """Give the weights that were given last to an engine that has begun anew. Raises TkError where it serves others then."""
        if self._weights is None:
            return
        digest = self._given(link, self._weights, self.version)
        if digest != self.digest:
            raise TkError(
                f"The engine {self._name} has begun anew, and serves other weights than before: {digest!r}, not {self.digest!r}."
            )

    def _again_if_lost(self, act: Callable[[Link], str]) -> str:
        """What an engine says; one that has gone since it was asked last, or goes now, is begun anew once."""
        try:
            self._link = self._opened()
            return act(self._link)
        except LostError as error:
            self._lost(error)
            self._link = self._opened()
            return act(self._link)

    def _opened(self) -> Link:
        """The link, or a new one to an engine that is as its checkpoint. Raises LostError past the bound."""
        if self._link is not None:
            return self._link
        if self._left <= 0:
            raise LostError(f"The engine {self._name} was lost too often; it is not begun again.")
        self._left -= 1
        return self._open_link()

    def _given(self, link: Link, folder: Path, version: int) -> str:
        """Have an engine read a folder's weights; what it serves then."""
        return str(link.call("update", folder=str(folder), version=version))

    def _drop(self, key: int) -> list[str]:
        names = [name for name, asked in self._asked.items() if asked.key == key]
        for name in names:
            del self._asked[name]
        return names
