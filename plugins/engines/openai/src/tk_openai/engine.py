"""The engine `openai`: requests to an endpoint, many at once, in a thread with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, cast

import openai
from torch import Tensor

from tk.contracts import Delta, FinishReason, LoadedModel, Request
from tk.engines import Base
from tk.errors import RequestError, TkError, UsageError
from tk_openai.body import asks_for_sampled, chat_body, completion_body
from tk_openai.calls import Calls
from tk_openai.options import OpenAIOptions
from tk_remote.weights import written
from tk_text.asked import checked, stops

WAIT = 0.05
"""Seconds that a step waits for something to come."""
PAUSE = 1.0
"""Seconds before a request is sent anew whose connection broke."""
SUPPORTS = ("own-template", "penalties", "logit-bias")
"""What of a request it sends on that not every engine can."""
ENDS: dict[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "content_filter": "stop",
}
"""The endpoint's word for how an answer ended -> tk's."""
TOO_LONG = "context_length_exceeded"
"""OpenAI's word for a prompt without room."""
TOO_LONG_IN_WORDS = re.compile("context length|maximum model length", re.IGNORECASE)
"""What vLLM and SGLang say instead."""


@dataclass(eq=False)
class _Asked:
    """A request on its way. left: completions that have not ended."""

    request: Request
    left: int
    task: Future[None] | None = None


@dataclass(frozen=True)
class _About:
    """What a model is called there, and its positions, which vLLM, SGLang and `tk serve` tell."""

    name: str
    max_length: int | None


class OpenAIEngine(Base):
    """Conversations by the endpoint's own template (`Request.messages`), or tokens (`Request.ids`) of the run's model."""

    def __init__(self, options: OpenAIOptions, *, model: LoadedModel | None, folder: Path) -> None:
        self.options, self.model, self.version = options, model, 0
        self._folder = folder
        self._keys, self._heard, self._asked = count(), SimpleQueue[Delta](), dict[int, _Asked]()
        self._known: _About | None = None
        self._digest = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai", daemon=True)
        self._thread.start()
        self._client = openai.AsyncOpenAI(
            base_url=options.url,
            api_key=os.environ.get(options.key_variable) or "none",
            timeout=options.timeout,
            max_retries=options.retries,
        )
        self._slots = asyncio.Semaphore(options.max_requests)

    def add(self, request: Request) -> int:
        if request.messages and request.ids:
            raise UsageError("A request has messages or a prompt's tokens, not both.")
        lacking = [name for word, name in request.needs.items() if word not in SUPPORTS]
        if lacking:
            raise UsageError(f"{lacking[0]}: an endpoint is not asked for it.")
        if not request.messages:
            if self.model is None:
                raise UsageError("A further engine is asked by messages: there is no model whose tokens it could take.")
            checked(request, self.model)
        key = next(self._keys)
        asked = self._asked[key] = _Asked(request, request.sampling.n)
        asked.task = asyncio.run_coroutine_threadsafe(self._ask(key, request), self._loop)
        return key

    def step(self) -> list[Delta]:
        if not self._asked:
            return []
        found: list[Delta] = []
        with contextlib.suppress(Empty):
            found.append(self._heard.get(timeout=WAIT))
            while True:
                found.append(self._heard.get_nowait())
        return [delta for delta in found if self._counts(delta)]

    def cancel(self, key: int) -> None:
        asked = self._asked.pop(key, None)
        if asked is not None and asked.task is not None:
            asked.task.cancel()

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """By way of files in the run's folder, which the endpoint has to see too (`tk serve --server.weight-updates true`)."""
        folder = written(weights, self._folder / f"weights-{os.getpid()}-{version}")
        try:
            told = self._run(self._updated(folder, version))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.version, self._digest = version, str(told.get("digest", ""))
        return self._digest

    def close(self) -> None:
        for key in list(self._asked):
            self.cancel(key)
        if not self._loop.is_closed():
            with contextlib.suppress(TkError):
                self._run(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _counts(self, delta: Delta) -> bool:
        """Whether it is of a request that is still on its way."""
        asked = self._asked.get(delta.key)
        if asked is None:
            return False
        asked.left -= bool(delta.finish_reason)
        if not asked.left:
            del self._asked[delta.key]
        return True

    def _run(self, work: Any) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except openai.OpenAIError as error:
            raise self._failure(error) from error

    # --- in the thread ---

    async def _ask(self, key: int, request: Request) -> None:
        ended: set[int] = set()
        failure: TkError | None = None
        try:
            async with self._slots, asyncio.timeout(self.options.timeout):
                async for delta in self._pieces(key, request):
                    if delta.finish_reason:
                        ended.add(delta.number)
                    self._heard.put(delta)
        except TimeoutError:
            failure = self._late()
        except openai.OpenAIError as error:
            failure = self._failure(error)
        except TkError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - what an endpoint says may be anything; whoever asked is told
            failure = TkError(f"{self.options.url}: what it says cannot be read: {error!r}.")
        for number in set(range(request.sampling.n)) - ended:
            told = failure or TkError(f"{self.options.url}: it ended before the answer did.")
            self._heard.put(Delta("", (), "error", key, number, error=told))

    async def _pieces(self, key: int, request: Request) -> AsyncIterator[Delta]:
        """Asked again where the connection breaks before anything has come of the answer."""
        for left in reversed(range(self.options.retries + 1)):
            begun = False
            try:
                async for delta in self._chat(key, request) if request.messages else self._completion(key, request):
                    begun = True
                    yield delta
            except openai.APIConnectionError:
                if begun or not left:
                    raise
                await asyncio.sleep(PAUSE)
            else:
                return

    async def _chat(self, key: int, request: Request) -> AsyncIterator[Delta]:
        body = chat_body(request, (await self._about()).name, self.options)
        calls = [Calls() for _ in range(request.sampling.n)]
        async for chunk in await self._client.chat.completions.create(**body, stream=True):
            self._check(chunk, request)
            for choice in chunk.choices:
                listed = choice.logprobs.content if choice.logprobs else None
                logps = tuple(one.logprob for one in listed or ())
                own, finish = calls[choice.index], self._finish(choice.finish_reason)
                own.add(choice.delta.tool_calls or ())
                made, rest = own.whole() if finish else ((), "")
                text = (choice.delta.content or "") + rest
                yield Delta(text, (), finish, key, choice.index, logps, self.version, tool_calls=made)

    async def _completion(self, key: int, request: Request) -> AsyncIterator[Delta]:
        """Raises TkError for an endpoint that tells no token ids where they are needed."""
        model = cast(LoadedModel, self.model)
        stop_ids, _ = stops(request, model)
        about = await self._about()
        body = completion_body(
            request, sorted(stop_ids), checked(request, model, about.max_length), about.name, self.options
        )
        texts: dict[int, str] = {}
        async for chunk in await self._client.completions.create(**body, stream=True):
            self._check(chunk, request)
            for choice in chunk.choices:
                finish = self._finish(choice.finish_reason)
                ids = tuple((choice.model_extra or {}).get("token_ids") or ())
                logps = tuple(choice.logprobs.token_logprobs or ()) if choice.logprobs else ()
                if choice.text and not ids and choice.index not in texts:
                    if request.sampling.logprobs:
                        raise TkError(
                            f"{self.options.url}: it tells no token ids (return_token_ids), without which its answers "
                            "cannot be trained on."
                        )
                    texts[choice.index] = ""
                if choice.index in texts:
                    texts[choice.index] += choice.text
                    ids = tuple(model.tokenizer.encode(texts[choice.index], add_special_tokens=False)) if finish else ()
                yield Delta(choice.text, ids, finish, key, choice.index, logps, self.version)

    def _check(self, chunk: Any, request: Request) -> None:
        """Raises TkError for an answer with other weights than those that were given, or with log-probs of something else."""
        if self._digest and chunk.system_fingerprint not in (None, self._digest):
            raise TkError(
                f"{self.options.url}: it answers with other weights than it was given: is another run using it? Give each run "
                "an endpoint of its own."
            )
        told = (chunk.model_extra or {}).get("logprobs_of")
        if asks_for_sampled(request.sampling, self.options) and told != "sampled":
            raise TkError(
                f"{self.options.url}: it does not say that its log-probs are those of the sampled distribution: where they "
                "are, say so by `logprobs_of: sampled`; else ask for none, or sample at temperature 1 without top_p and the like."
            )

    async def _about(self) -> _About:
        """Of the model that is asked: the one that is named, else the first. An endpoint need not list it, where it is named."""
        if self._known is None:
            try:
                listed = (await self._client.models.list()).data
            except openai.APIStatusError:
                if not self.options.model:
                    raise
                listed = []
            one = next((one for one in listed if self.options.model in ("", one.id)), None)
            positions = (one.model_extra or {}).get("max_model_len") if one is not None else None
            name = self.options.model or (one.id if one is not None else "")
            self._known = _About(name, positions if isinstance(positions, int) else None)
        return self._known

    async def _updated(self, folder: Path, version: int) -> dict[str, Any]:
        body = {"folder": str(folder.resolve()), "version": version}
        try:
            found: dict[str, Any] = await self._client.post("/update_weights", body=body, cast_to=dict[str, Any])
        except openai.NotFoundError as error:
            raise UsageError(
                f"{self.options.url}: it takes no weights: begin it as `tk serve … --server.weight-updates true` (other "
                "servers take none from a run)."
            ) from error
        return found

    def _finish(self, reason: str | None) -> FinishReason:
        if reason and reason not in ENDS:
            raise TkError(f"{self.options.url}: an answer ended by {reason!r}.")
        return ENDS[reason] if reason else ""

    def _late(self) -> TkError:
        seconds = self.options.timeout
        return TkError(f"{self.options.url}: no answer in {seconds:g} seconds: raise `timeout`, or ask for less.")

    def _unreached(self, why: object) -> TkError:
        return TkError(f"{self.options.url}: it cannot be reached: {why}.")

    def _failure(self, error: openai.OpenAIError) -> TkError:
        """What an endpoint, or the way to it, has refused, with the mend."""
        where, said = self.options.url, str(getattr(error, "message", error))
        status = getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError):
            return self._late()
        if isinstance(error, openai.APIConnectionError):
            return self._unreached(error.__cause__ or said)
        if status == 400 and (getattr(error, "code", None) == TOO_LONG or TOO_LONG_IN_WORDS.search(said)):
            return RequestError(f"{where}: {said}", too_long=True)
        mends = {
            401: f" Is its key in the environment variable {self.options.key_variable}?",
            404: " Is `url` right (up to /v1), and `model`?",
            429: " Ask for less at once (`max_requests`), or more often (`retries`).",
        }
        kind: type[TkError] = UsageError if status in (400, 401, 403, 404, 422) else TkError
        return kind(f"{where}: {said}{mends.get(status or 0, '')}")
