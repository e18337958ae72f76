"""The model that is served: what clients send becomes tokens for its engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tk.capabilities import CAPABILITIES
from tk.compose import Plan
from tk.contracts import LM_HEAD, Encoding, Engine, Head, Request, Sampling, Template
from tk.dispatch import Dispatcher
from tk.errors import TkError, UsageError
from tk.loading import adapter_folder, runtime
from tk.sample import Sample
from tk_media.fetch import fetched
from tk_openai_server.errors import Refused, of_the_engine
from tk_openai_server.options import ServerOptions
from tk_remote.weights import read

T = TypeVar("T")
REMOTE = ("data:", "http://", "https://")
"""How a medium of a client may be named: never as a file of this machine."""

FIELDS = {"prompt_logps": "echo", "model_logps": "logprobs"}
"""What the protocol calls fields of a request to the engine that it has other names for."""

FETCHERS = 16
"""Files behind URLs that are fetched at once, one of each request."""

AT_ONCE = 32
"""Texts of like length whose vectors are computed in one go; between two, the engine hears others, and whether the client is there."""


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt, with its media."""

    encoding: Encoding

    def __len__(self) -> int:
        return len(self.encoding.ids)


class Served:
    """A loaded model under a name, its template, and its engine in a thread of its own."""

    def __init__(
        self, plan: Plan, run: Path | None, *, name: str, options: ServerOptions, head: Head = LM_HEAD
    ) -> None:
        loaded = runtime(plan, run, head, adapters=True, more=options.load_adapters)
        self.name, self.options, self.sampling = name, options, plan.config.sampling
        self.created = int(time.time())
        self._version = 0
        self.fingerprint: str | None = None
        """The digest of the weights that the model was given last."""
        self.head = loaded.model.head
        self.max_length: int | None = loaded.model.max_length
        self.tokenizer: Any = loaded.model.tokenizer
        self.dispatcher = Dispatcher(loaded.engine)
        self.template: Template = loaded.template
        self._model, self._engine = loaded.model, plan.one("engine")
        self._messages = plan.registry.get("formats", "messages").build(generation=True)
        self._media = plan.config.media
        self._encoders = ThreadPoolExecutor(1, "encode")  # tokenizers are not made for several threads
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetch")

    @property
    def adapters(self) -> Sequence[str]:
        """Names of those that are loaded."""
        return self._model.adapters.names if self._model.adapters is not None else ()

    async def load(self, name: str, folder: str) -> None:
        """Load an adapter between two tokens of what is on its way. Raises Refused where it does not fit."""

        def act(_: Engine) -> None:
            assert self._model.adapters is not None
            self._model.adapters.add(name, adapter_folder(Path(folder)))

        if name in (self.name, *self.adapters):
            raise Refused(400, f"There is a model {name!r} already.", param="lora_name")
        await self._by_engine(act)

    async def unload(self, name: str) -> None:
        """Let go of an adapter; requests on their way that name it end with an error."""

        def act(engine: Engine) -> None:
            assert self._model.adapters is not None
            error = UsageError(f"The adapter {name!r} was unloaded while this was answered.")
            self.dispatcher.end(lambda request: request.adapter == name, error)
            self._model.adapters.remove(name)
            engine.update((), self._version)  # what was read with it counts no longer, should another take its name

        if name not in self.adapters:
            raise Refused(404, f"There is no adapter {name!r} here.", param="lora_name", code="model_not_found")
        await self._by_engine(act)

    async def update(self, folder: str, version: int) -> str:
        """Put the tensors of a folder into the model between two tokens; the digest of what is served then."""

        def act(engine: Engine) -> str:
            digest = engine.update(read(Path(folder)), version)
            self._version, self.fingerprint = version, digest or None
            return digest

        return await self._by_engine(act)

    async def _by_engine(self, act: Callable[[Engine], T]) -> T:
        try:
            return await asyncio.wrap_future(self.dispatcher.call(act))
        except (TkError, OSError) as error:
            raise Refused(400, str(error)) from error

    async def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> Prompt:
        """A conversation as tokens. Raises Refused for one that the template does not take."""
        sample = await self._done(self._encoders, lambda: self._conversation(messages, tools))
        for url in _remote(sample) if self._model.media is not None else ():  # encoding finds what has been fetched
            await self._done(self._fetchers, partial(fetched, url, self._media, self.options.timeout))
        return self._checked(await self._encoded(sample))

    async def prompt(self, prompt: str | Sequence[int], *, room: int = 1) -> Prompt:
        """A text as tokens, or tokens as they are. room: tokens that have to fit behind them."""
        if isinstance(prompt, str):
            return self._checked(await self._encoded(Sample(text=prompt, origin="prompt")), room)
        if max(prompt) >= len(self.tokenizer):
            raise Refused(400, f"prompt: there is no token {max(prompt)}: the vocabulary has {len(self.tokenizer)}.")
        return self._checked(Prompt(Encoding(prompt, [0.0] * len(prompt))), room)

    def request(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling,
        *,
        chat: bool,
        prompt_logps: bool = False,
        stop_ids: Sequence[int] | None = None,
        logprobs_of: str | None = None,
    ) -> Request:
        """What the engine is asked. A text goes on until the model ends it; an answer, until the turn ends.

        Raises Refused for what the engine cannot do.
        """
        ends = self.template.stop_ids() if chat else ()
        own = sampling.logprobs and sampling.reshapes and (logprobs_of or self.options.logprobs) == "model"
        stops = tuple(stop_ids) if stop_ids is not None else ends
        request = Request(
            prompt.encoding.ids, sampling, stops, prompt.encoding.media, self._adapter(model), prompt_logps, own
        )
        for word, name in request.needs.items():
            if word not in self._engine.component.spec.supports:
                field, text = FIELDS.get(name, name), CAPABILITIES[word].text
                raise Refused(
                    400, f"{field}: the engine {self._engine.name} does not support {word!r}: {text}.", param=field
                )
        return request

    async def vectors(self, model: str, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        """A vector each. Raises Refused where the engine gives none."""
        if self.head.kind != "none":
            raise Refused(400, f"{self.name} generates text: serve an embedding model for vectors.", param="model")
        adapter = self._adapter(model)
        asked = [Request(p.encoding.ids, media=p.encoding.media, adapter=adapter) for p in prompts]
        order = sorted(range(len(asked)), key=lambda i: -len(asked[i].ids))
        found: dict[int, tuple[float, ...]] = {}
        for start in range(0, len(order), AT_ONCE):
            places = order[start : start + AT_ONCE]
            with of_the_engine():
                told = self.dispatcher.call(partial(_scored, requests=[asked[i] for i in places]))
                found |= zip(places, await asyncio.wrap_future(told), strict=True)
        return [found[i] for i in range(len(asked))]

    def _adapter(self, model: str) -> str:
        """What the engine calls it; "": the model itself."""
        return "" if model == self.name else model

    def close(self) -> None:
        self.dispatcher.close()
        self._encoders.shutdown()
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    async def _encoded(self, sample: Sample) -> Prompt:
        (encoding,) = await self._done(self._encoders, lambda: self.template.encode([sample], generation=True))
        return Prompt(encoding)

    async def _done(self, pool: ThreadPoolExecutor, act: Callable[[], T]) -> T:
        """Something of a request that takes its time; what is wrong with it is the client's fault."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, act)
        except (ValueError, TkError, RecursionError) as error:
            raise Refused(400, str(error)) from error

    def _conversation(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Sample:
        sample: Sample = self._messages({"messages": list(messages), **({"tools": list(tools)} if tools else {})})
        parts = [part for m in sample.messages if not isinstance(m.content, str) for part in m.content]
        for part in parts:
            if part.type != "text" and not (isinstance(part.source, str) and part.source.startswith(REMOTE)):
                raise Refused(400, f"An {part.type} is given as a data URL or an http(s) URL.", param="messages")
        if sample.messages[-1].role == "assistant":
            raise Refused(400, "The last message is the assistant's: there is nothing to answer.", param="messages")
        return replace(sample, origin="messages")

    def _checked(self, prompt: Prompt, room: int = 1) -> Prompt:
        limits = [limit for limit in (self.options.max_prompt, self.max_length and self.max_length - room) if limit]
        most = min(limits, default=None)
        if most is not None and len(prompt) > most:
            raise Refused(
                400, f"The prompt has {len(prompt)} tokens, and {most} are the limit.", code="context_length_exceeded"
            )
        if not len(prompt):
            raise Refused(400, "The prompt is empty.")
        return prompt


def _remote(sample: Sample) -> Iterator[str]:
    """URLs of its media."""
    for message in sample.messages:
        for part in message.content if not isinstance(message.content, str) else ():
            if isinstance(part.source, str) and part.source.startswith(("http://", "https://")):
                yield part.source


def _scored(engine: Engine, requests: Sequence[Request]) -> list[tuple[float, ...]]:
    return engine.score(requests)
