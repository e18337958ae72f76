"""A completion on its way: its tokens so far, and whether it has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Delta, FinishReason, LoadedModel, Request, Sampling, Top
from tk.errors import TkError, UsageError
from tk_transformers.text import TextStream
from tk_transformers.told import Told


@dataclass(frozen=True)
class Taken:
    """A token with its log-prob, and the likeliest in its place where asked for."""

    token: int
    logp: float
    top: Top = ()


@dataclass(eq=False)
class Row:
    """One of a request's completions.

    key, number: of the request, and which of its completions. limit: tokens that it may have.
    prompt: int64 [L]. positions: [L] or [axes, L], of the prompt. read: tokens that are in the cache, of the prompt and then of the answer.
    seen: [V], the tokens that a repetition penalty falls on. counts: [V], how often the answer has each, where that is asked for.
    told: of the prompt, where asked for.
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
    told: Told | None = None
    ids: list[int] = field(default_factory=list)
    finish: FinishReason = ""
    read: int = 0
    seen: Tensor | None = None
    counts: Tensor | None = None

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

    @property
    def to_tell(self) -> bool:
        """Whether log-probs of the prompt are still to come."""
        return self.told is not None and not self.told.whole

    def tell(self, logits: Tensor) -> None:
        """Logits [T, V] after the tokens that are read now, where log-probs of the prompt are still to come."""
        if self.told is not None and not self.told.whole:
            self.told.add(self.read, logits)

    def take(self, taken: Taken, version: int) -> Delta:
        """Add a token, and end where it is or completes a stop, or is the last one allowed."""
        token = taken.token
        self.ids.append(token)
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
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
        logps = (taken.logp,) if self.sampling.logprobs else ()
        top = (taken.top,) if self.sampling.top_logprobs else ()
        prompt = self.told.all() if self.told is not None and len(self.ids) == 1 else None
        return Delta(text, (token,), self.finish, self.key, self.number, logps, version, top=top, prompt=prompt)

    def end(self, version: int) -> Delta:
        """End where no token is allowed: the prompt has been read."""
        self.finish = "length"
        prompt = self.told.all() if self.told is not None else None
        return Delta("", (), "length", self.key, self.number, policy_version=version, prompt=prompt)

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
    if request.media and request.prompt_logps:
        raise UsageError("A prompt with pictures has tokens without log-probs: ask for those of texts only.")
    known = model.adapters.names if model.adapters is not None else ()
    if request.adapter and request.adapter not in known:
        raise UsageError(f"There is no adapter {request.adapter!r}: {', '.join(known) or 'none is loaded'}.")
    bounds = {
        "max_tokens": sampling.max_tokens >= (0 if request.prompt_logps else 1),
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "n": sampling.n >= 1,
        "repetition_penalty": sampling.repetition_penalty > 0,
        "top_logprobs": sampling.top_logprobs >= 0,
        "min_p": 0 <= sampling.min_p <= 1,
        "logit_bias": all(name.isdecimal() and int(name) < len(model.tokenizer) for name in sampling.logit_bias),
    }
    for name, holds in bounds.items():
        if not holds:
            raise UsageError(f"sampling.{name}: {getattr(sampling, name)} is out of bounds.")
    positions = model.max_length or 2**31
    room = positions - len(request.ids)
    if room < min(1, sampling.max_tokens):
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
