"""Generation and the rewards of what was generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.config.sections import Sampling
from tk.contracts.media import Medium
from tk.errors import TkError
from tk.sample import Message

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """A prompt as token ids (templates tokenise, engines never do), and how to sample.

    adapter: one of `LoadedModel.adapters`, or what an engine of its own knows by that name; "": the model's own (`adapters`).
    """

    ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: tuple[int, ...] = ()
    media: Sequence[Medium] = ()
    adapter: str = ""


FinishReason = Literal["", "stop", "length", "error", "cancelled"]
"""How a completion ended: by a stop token or string, at its limit, not at all; "" while it is on its way."""


@dataclass(frozen=True)
class Completion:
    """A generated continuation. `ids` include the stop token where one ended it; `text` does not.

    logps: of the sampled distribution (after temperature and truncation), one a token, where asked for.
    policy_version: the version last given to `Engine.update`.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logps: tuple[float, ...] | None = None
    policy_version: int = 0


@dataclass(frozen=True)
class Delta:
    """A piece of a completion; the last one has a finish reason.

    key, number: of the request, as `Engine.add` gave it, and which of its `sampling.n` completions.
    logps: one a token, where asked for. error: why there is none, where the finish reason is "error".
    """

    text: str
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason = ""
    key: int = 0
    number: int = 0
    logps: tuple[float, ...] = ()
    policy_version: int = 0
    error: TkError | None = None


@runtime_checkable
class Engine(Protocol):
    """What generates. Built as `target([options], model=LoadedModel, folder=Path)`; `tk.engines` drives it.

    folder: where it may keep files of its own (logs, weights on their way); made when it is needed.

    Requests are added at any time, also while others are on their way, and cancelled; each step gives what is new of all of them.
    One that generates on `model.module` itself declares `shared-module`: in training this is the module that is trained.
    Others have weights of their own, at first those of `model.path`, and are given those in training by `update`
    (`weight-update`); of `model` they may use all but the module, which can be without weights (on the meta device).
    """

    def add(self, request: Request) -> int:
        """A key for the request, which no other has. Raises TkError, with nothing begun, for one that cannot be served."""
        ...

    def step(self) -> Sequence[Delta]:
        """What is new since the last step, soon: nothing where nothing has come. In the order of each completion."""
        ...

    def cancel(self, key: int) -> None:
        """Forget a request; nothing more comes of it. One that is not known (any longer) is no error."""
        ...

    def score(self, requests: Sequence[Request]) -> list[tuple[float, ...]]:
        """Numbers of whole sequences, by a model without a vocabulary head: a score a label, or the text's vector.

        Raises UsageError where the engine, or the model's head, has no such thing.
        """
        ...

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Answer with other weights from now on: with these, or, none given, with those of the shared module as it is now."""
        ...

    def sleep(self) -> None:
        """Let go of what memory it can until the next request (`sleep`)."""
        ...

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
