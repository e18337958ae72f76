"""A plugin file for tests: callbacks that do to a run what may befall it, or watch what it tells."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tk import CallbackSpec, LossSpec, doc, hookimpl
from tk.callbacks import Base
from tk.contracts import Stat


@dataclass(frozen=True)
class At:
    """When."""

    step: Annotated[int, doc("The step.")] = 3
    rank: Annotated[str, doc("The rank that it happens to; any unless given.")] = ""


class SignalAt(Base):
    """Sends this process SIGTERM after a step."""

    def __init__(self, options: At) -> None:
        self.step, self.rank = options.step, options.rank

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        if control.step == self.step and self.rank in ("", os.environ.get("RANK", "")):
            os.kill(os.getpid(), signal.SIGTERM)


class HalveAt(Base):
    """Halves the learning rate after a step, asks for a checkpoint, and keeps the first one; counts steps as its state."""

    def __init__(self, options: At) -> None:
        self.step, self.steps, self.first = options.step, 0, ""

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        self.steps += 1
        if control.step == self.step:
            control.scale_lr(0.5)
            control.save()

    def on_checkpoint(self, control: Any, checkpoint: Any) -> None:
        self.first = self.first or str(checkpoint.path)
        control.keep([Path(self.first)])

    def state(self) -> Mapping[str, Any]:
        return {"steps": self.steps, "first": self.first}

    def load(self, state: Mapping[str, Any]) -> None:
        self.steps, self.first = state["steps"], state["first"]


class StopAt(Base):
    """Ends the run after a step."""

    def __init__(self, options: At) -> None:
        self.step = options.step

    def on_step(self, control: Any, metrics: Mapping[str, float]) -> None:
        if control.step == self.step:
            control.stop("enough")


@dataclass(frozen=True)
class TrapOptions:
    """Where."""

    token: Annotated[int, doc("The token.")]


class Trap:
    """The loss of a language model, but for rows with a token, where it is no number."""

    unit = "token"
    wants = (Stat("logps"),)

    def __init__(self, options: TrapOptions) -> None:
        self.token = options.token

    def __call__(self, stats: Any, fields: Any, reduce: Any) -> Any:
        values = reduce(-stats["logps"] * fields["token_weights"])
        trapped = reduce((fields["targets"] == self.token).to(values))
        return values / (1 - trapped.clamp(max=1)) if bool(trapped.any()) else values


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(name="trap", target=Trap, config=TrapOptions, summary="For tests.")


@hookimpl
def tk_callbacks() -> Iterable[CallbackSpec]:
    for name, target in (("signal-at", SignalAt), ("halve-at", HalveAt), ("stop-at", StopAt)):
        yield CallbackSpec(name=name, target=target, config=At, summary="For tests.")
