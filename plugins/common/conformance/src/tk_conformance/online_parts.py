"""A plugin file for runs of online methods: a reward for lower-case letters, one that does not apply, a callback that
sends a signal, and an engine whose answers are written down beforehand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from tk import EngineSpec, component, hookimpl
from tk.callbacks import Base
from tk.contracts import Completion, LoadedModel, Request
from tk.engines import Batched


@component("rewards", "letters")
async def letters(batch: Any) -> Sequence[float]:
    """The share of an answer's characters that are lower-case letters."""
    return [sum("a" <= c <= "z" for c in m.text) / max(1, len(m.text)) for m in batch.completions]


@component("rewards", "silent")
async def silent(batch: Any) -> Sequence[None]:
    """Never applies."""
    return [None] * len(batch.completions)


@component("rewards", "broken")
async def broken(batch: Any) -> Sequence[float]:
    """Has an answer too few."""
    return [0.0] * (len(batch.completions) - 1)


class Recorded(Batched):
    """Answers that depend on the request's seed only: the same whatever the weights are, and whoever has them.

    The weights that came last lie in its folder as `received.safetensors`, written when it is closed.
    """

    def __init__(self, *, model: LoadedModel, folder: Path) -> None:
        super().__init__()
        self.tokenizer, self.vocabulary = model.tokenizer, len(model.tokenizer)
        self.versions: list[int] = []
        self.received: dict[str, Tensor] = {}
        self.folder = folder

    def answer(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [[self._answer(request, i) for i in range(request.sampling.n)] for request in requests]

    def _answer(self, request: Request, number: int) -> Completion:
        draw = np.random.default_rng([request.sampling.seed or 0, number])
        length = int(draw.integers(1, request.sampling.max_tokens + 1))
        ids = tuple(draw.integers(10, self.vocabulary, length).tolist())
        return Completion(ids, self.tokenizer.decode(ids), "stop")

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        self.versions.append(version)
        self.received = {name: tensor.clone() for name, tensor in weights}
        return ""

    def close(self) -> None:
        """Its updates were one a step, in order."""
        assert self.versions == sorted(set(self.versions)), self.versions
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(self.received, self.folder / "received.safetensors")


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(name="recorded", target=Recorded, supports=("weight-update",), summary="Answers known beforehand.")


@dataclass(frozen=True)
class SignalOptions:
    """When."""

    step: int = 1


@component("callbacks", "interrupt", config=SignalOptions)
class Interrupt(Base):
    """Sends the signal that saves and stops."""

    def __init__(self, options: SignalOptions) -> None:
        self.options = options

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        if control.step == self.options.step:
            os.kill(os.getpid(), signal.SIGTERM)
