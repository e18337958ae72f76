"""A completion on its way: its tokens so far, and whether it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Delta, FinishReason, LoadedModel, Request, Sampling
from tk.errors import TkError, UsageError
from tk_transformers.text import TextStream


@dataclass(eq=False)
class Row:
    """One of a request's completions.

    key, number: of the request, and which of its completions. limit: tokens that it may have.
    prompt: int64 [L]. positions: [L] or [axes, L], of the prompt. read: tokens that are in the cache, of the prompt and then of the answer.
    seen: [V], the tokens that a repetition penalty falls on.
    """

    key: int
    number: int
    request: Request
    prompt: np.ndarray
    positions: np.ndarray
    stop_ids: frozenset[int]
    limit: int
    generator: torch.Generator
    stream: TextStream
    ids: list[int] = field(default_factory=list)
    finish: FinishReason = ""
    read: int = 0
    seen: Tensor | None = None

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    def position(self, number: int) -> np.ndarray:
        """[1] or [axes, 1] of the prompt's or answer's token of that number, after the prompt."""
        place = np.array([number])
        if self.positions.ndim == 1:
            return place
        ahead = int(self.positions[1:].max()) + 1 - len(self.prompt)  # of the number of tokens, or behind it
        return np.stack([place, *[place + ahead] * (len(self.positions) - 1)])

    def known(self, count: int) -> np.ndarray:
        """The first tokens of prompt and answer."""
        return np.concatenate([self.prompt, np.asarray(self.ids, dtype=np.int64)])[:count]

    def take(self, token: int, logp: float, version: int) -> Delta:
        """Add a token, and end where it is or completes a stop, or is the last one allowed."""
        self.ids.append(token)
        if self.seen is not None:
            self.seen[token] = True
        text = ""
        if token in self.stop_ids:
            self.finish = "stop"
        else:
            text = self.stream.push(token)
            if self.stream.stopped:
                self.finish = "stop"
            elif len(self.ids) >= self.limit:
                self.finish = "length"
        if self.finish:
            text += self.stream.finish()
        logps = (logp,) if self.sampling.logprobs else ()
        return Delta(text, (token,), self.finish, self.key, self.number, logps, version)

    def fail(self, error: TkError) -> Delta:
        """End without an answer."""
        self.finish = "error"
        return Delta("", (), "error", self.key, self.number, error=error)


def checked(request: Request, model: LoadedModel) -> int:
    """Tokens that an answer to a request may have. Raises TkError for one that cannot be served."""
    sampling = request.sampling
    if not len(request.ids):
        raise TkError("A prompt is empty: there is nothing to go on from.")
    if request.media and model.media is None:
        raise TkError(f"The model takes text only, and the request has an {request.media[0].type}.")
    known = model.adapters.names if model.adapters is not None else ()
    if request.adapter and request.adapter not in known:
        raise UsageError(f"There is no adapter {request.adapter!r}: {', '.join(known) or 'none is loaded'}.")
    bounds = {
        "max_tokens": sampling.max_tokens >= 1,
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "n": sampling.n >= 1,
        "repetition_penalty": sampling.repetition_penalty > 0,
    }
    for name, holds in bounds.items():
        if not holds:
            raise UsageError(f"sampling.{name}: {getattr(sampling, name)} is out of bounds.")
    positions = model.max_length or 2**31
    room = positions - len(request.ids)
    if room < 1:
        raise TkError(f"A prompt of {len(request.ids)} tokens fills the model's {positions} positions.")
    return min(sampling.max_tokens, room)


def stops(request: Request, model: LoadedModel) -> tuple[frozenset[int], Sequence[str]]:
    """Tokens and texts that end an answer. A special token's spelling never shows in a text: it stops by its id."""
    tokenizer, asked = model.tokenizer, request.sampling.stop
    special = set(tokenizer.all_special_tokens)
    named = {tokenizer.convert_tokens_to_ids(stop) for stop in asked if stop in special}
    ids = frozenset(request.stop_ids or _end_ids(model)) | named
    return ids, [stop for stop in asked if stop not in special]


def _end_ids(model: LoadedModel) -> Iterable[int]:
    """The checkpoint's own end tokens, for requests that name none."""
    config = getattr(model.module, "generation_config", None)
    ends = config.eos_token_id if config is not None else None
    ends = model.tokenizer.eos_token_id if ends is None else ends
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
