"""Generation and the rewards of what was generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.config.sections import Sampling
from tk.contracts.media import Medium
from tk.errors import TkError
from tk.sample import Message, ToolCall

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """A prompt as token ids (templates tokenise, engines never do), and how to sample.

    messages, tools: instead of ids, for an engine with a template of its own (`own-template`): an endpoint that judges. tools
        are functions as rows describe them; their calls come back as `Completion.tool_calls`. Of ids `Template.read` tells.
    adapter: one of `LoadedModel.adapters`, or what an engine of its own knows by that name; "": the model's own (`adapters`).
    prompt_logps: whether log-probs of the prompt's own tokens are wanted (`prompt-logprobs`); then `sampling.max_tokens` may be
        0, and nothing is generated.
    model_logps: whether log-probs of the answer are those of the model itself, before penalties, temperature and truncation
        (`model-logprobs`), instead of those of the sampled distribution.
    """

    ids: Sequence[int] = ()
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: tuple[int, ...] = ()
    media: Sequence[Medium] = ()
    adapter: str = ""
    prompt_logps: bool = False
    model_logps: bool = False
    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, Any]] = ()

    @property
    def needs(self) -> Mapping[str, str]:
        """What is asked for that not every engine can: capability -> the field that asks for it."""
        own = {
            "prompt-logprobs": "prompt_logps",
            "model-logprobs": "model_logps",
            "own-template": "messages",
            "media": "media",
            "adapters": "adapter",
        }
        found = {word: name for word, name in own.items() if getattr(self, name)}
        return {**({"own-template": "tools"} if self.tools else {}), **found, **self.sampling.needs}


Top = tuple[tuple[int, float], ...]
"""The likeliest tokens of a position with their log-probs, likeliest first."""


@dataclass(frozen=True)
class PromptLogps:
    """Log-probs of a prompt's tokens but for the first, which nothing stands before: those of the model itself.

    top: the `sampling.top_logprobs` likeliest tokens in the place of each, where asked for.
    """

    logps: tuple[float, ...]
    top: tuple[Top, ...] = ()


FinishReason = Literal["", "stop", "length", "error", "cancelled"]
"""How a completion ended: by a stop token or string, at its limit, not at all; "" while it is on its way."""


@dataclass(frozen=True)
class Completion:
    """A generated continuation. `ids` include the stop token where one ended it; `text` does not.

    logps: of the sampled distribution (after temperature and truncation), or of the model itself (`Request.model_logps`), one a
        token, where asked for. top: the `sampling.top_logprobs` likeliest tokens of the same distribution, in the place of each;
        those that cannot be sampled are left out.
    policy_version: the version last given to `Engine.update`. prompt: where asked for.
    tool_calls: what an engine's own template has read of its answer; `text` is the rest of it.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logps: tuple[float, ...] | None = None
    policy_version: int = 0
    top: tuple[Top, ...] | None = None
    prompt: PromptLogps | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of a completion; the last one has a finish reason.

    key, number: of the request, as `Engine.add` gave it, and which of its `sampling.n` completions.
    logps, top: one a token, where asked for. error: why there is none, where the finish reason is "error".
    prompt: with the first piece, where asked for. tool_calls: with the last one, whole.
    """

    text: str
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason = ""
    key: int = 0
    number: int = 0
    logps: tuple[float, ...] = ()
    policy_version: int = 0
    error: TkError | None = None
    top: tuple[Top, ...] = ()
    prompt: PromptLogps | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@runtime_checkable
class Engine(Protocol):
    """What generates. Built as `target([options], model=LoadedModel, folder=Path)`; `tk.engines` drives it.

    model: the run's own; None for a further engine of the config's section `engines`, which is not about that.
    folder: where it may keep files of its own (logs, weights on their way); made when it is needed.

    Requests are added at any time, also while others are on their way, and cancelled; each step gives what is new of all of them.
    One that generates on `model.module` itself declares `shared-module`: in training this is the module that is trained.
    Others have weights of their own, at first those of `model.path`, and are given those in training by `update`
    (`weight-update`); of `model` they may use all but the module, which can be without weights (on the meta device).
    """

    def add(self, request: Request) -> int:
        """A key for the request, which no other has. Raises TkError, with nothing begun, for one that cannot be served.

        RequestError, here or of a delta, says that it alone is at fault: above all a prompt that leaves no room for an answer
        within `model.max_length`, or within what the engine itself has.
        """
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

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Answer with other weights from now on: with these, or, none given, with those of the shared module as it is now.

        What it then serves as a digest, which is equal for equal weights; "" where it cannot tell, or serves the module.
        """
        ...

    def sleep(self) -> None:
        """Let go of what memory it can until the next request (`sleep`)."""
        ...

    def close(self) -> None: ...


class Asked(Protocol):
    """An engine that many may ask at once, from event loops (tk.dispatch)."""

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """`sampling.n` completions of each request, in order. Raises TkError for one that fails; the others are cancelled."""
        ...


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
    engines: the config's further engines by name, for judges.
    plain: whether the row gave its prompt as text, not as messages. origins: "file:line" of the row.
    moment: of the run. log: a figure of this batch, for the run's log. note: a column with a value a completion, for the
        run's record.
    """

    prompts: Sequence[Sequence[Message]]
    completions: Sequence[Message]
    completion_ids: Sequence[Sequence[int]] = ()
    finish_reasons: Sequence[str] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    engines: Mapping[str, Asked] = field(default_factory=dict)
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
