"""A completion on its way: its tokens so far, and whether it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Delta, FinishReason, Request, Sampling, Top
from tk.errors import TkError
from tk_text.stream import TextStream
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
    told: of the prompt, where asked for. outdated: some of it was read by other weights than those of now.
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
    outdated: bool = False
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
