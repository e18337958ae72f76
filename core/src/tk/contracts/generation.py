"""Generation and the rewards of what was generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.config.sections import Sampling
from tk.contracts.media import Medium
from tk.sample import Message

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """A prompt as token ids (templates tokenise, engines never do), and how to sample."""

    ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: tuple[int, ...] = ()
    media: Sequence[Medium] = ()


@dataclass(frozen=True)
class Completion:
    """A generated continuation. `ids` include the stop token where one ended it; `text` does not.

    logps: of the sampled distribution (after temperature and truncation), one a token, where asked for.
    finish_reason: "stop" (a stop token or string) or "length".
    policy_version: the version last given to `Engine.update`.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    logps: tuple[float, ...] | None = None
    policy_version: int = 0


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed completion; the last one has a finish reason."""

    text: str
    ids: tuple[int, ...] = ()
    finish_reason: Literal["", "stop", "length"] = ""


@runtime_checkable
class Engine(Protocol):
    """What generates. Built as `target([options], model=LoadedModel)`.

    One that generates on `model.module` itself declares `shared-module`: in training this is the module that is trained.
    Others leave it alone, and are given weights by `update` (`weight-update`) before they generate in training.
    """

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """`sampling.n` completions of each request, in order."""
        ...

    def stream(self, request: Request) -> Iterator[Delta]: ...

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """Numbers of whole sequences, by a model without a vocabulary head: a score a label, or the text's vector.

        Raises UsageError where the engine, or the model's head, has no such thing.
        """
        ...

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Moment:
    """How far a run is: optimizer steps done, of how many, and passes over the data. Zeros outside of a run."""

    step: int = 0
    steps: int = 0
    epoch: float = 0.0


def _unheard(name: str, value: Any) -> None:
    """Where nobody listens to what a reward tells."""


@dataclass(frozen=True)
class Scored:
    """A batch to be rewarded; all sequences have one entry a completion.

    prompts: the conversation before the completion. completions: the assistant's message.
    completion_ids, finish_reasons: as the engine gave them. columns: the row's other columns by name.
    engines: the run's named engines, for judges.
    plain: whether the row gave its prompt as text, not as messages. origins: "file:line" of the row.
    moment: of the run. log: a figure of this batch, for the run's log. note: a column with a value a completion, for the
        run's record.
    """

    prompts: Sequence[Sequence[Message]]
    completions: Sequence[Message]
    completion_ids: Sequence[Sequence[int]] = ()
    finish_reasons: Sequence[str] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)
    plain: Sequence[bool] = ()
    origins: Sequence[str] = ()
    moment: Moment = field(default_factory=Moment)
    log: Callable[[str, float], None] = _unheard
    note: Callable[[str, Sequence[Any]], None] = _unheard


@runtime_checkable
class Reward(Protocol):
    """A score of completions. Built as `target([options])`."""

    def __call__(self, batch: Scored) -> Sequence[float | None] | Awaitable[Sequence[float | None]]:
        """One finite float each, or None where the reward does not apply.

        `async` where it waits for something: such rewards wait together. A plain one is called in the main thread, with
        no event loop around it.
        """
        ...
