"""A completion on its way: its tokens so far, and whether it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tk.contracts import Delta, FinishReason, Request, Sampling
from tk.errors import TkError
from tk_text.stream import TextStream


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
