"""The objective: where batches come from, which forwards are asked for, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.config.sections import Sampling
from tk.contracts.data import Batch, Example, Layout, Limit, Template
from tk.contracts.generation import Completion, Request
from tk.contracts.models import LM_HEAD, Head
from tk.contracts.world import World
from tk.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

Rows = Mapping[str, "Tensor"]
Reduce = Callable[["Tensor"], "Tensor"]
"""[N] values of selected tokens -> [R] sums by sample, differentiable, over all ranks that share a sample."""
Figures = Mapping[str, tuple[float, float]]
"""Name -> (sum, weight); what is reported is the ratio of the totals."""


@dataclass(frozen=True)
class Window:
    """The micro-batches of one optimizer step on one rank: as many on every rank.

    cursor: JSON-able state of the source just after this window; `Source.windows(cursor)` goes on from there.
    epoch: passes over the data done after this window.
    samples: what this rank generated for it, for people: prompt, completion, rewards …
    """

    batches: Sequence[Batch]
    cursor: Mapping[str, Any]
    epoch: float = 0.0
    samples: Sequence[Mapping[str, Any]] = ()


class Source(Protocol):
    """The outer loop of a run. Offline methods iterate over a data set; online methods roll out."""

    def __len__(self) -> int:
        """Windows in the whole run."""
        ...

    def windows(self, cursor: Mapping[str, Any] | None = None, *, beyond: bool = False) -> Iterator[Window]:
        """Windows from the start, or from just after the one whose cursor is given.

        beyond: without an end; further passes over the data follow. For a source that draws more than a window a step.
        """
        ...

    def updated(self, step: int, session: Session) -> None:
        """Called after each optimizer step."""
        ...


class Settings(Protocol):
    """What a run's config tells to methods and sources, known before anything is loaded.

    seed, steps: of the run (steps None: as many as the data has). rewards: weights of the run's rewards by name.
    """

    sampling: Sampling
    seed: int
    steps: int | None
    rewards: Mapping[str, float]


class Session(Settings, Protocol):
    """What a running trainer offers to a source. Every rank calls each of its methods equally often."""

    world: World
    template: Template
    layout: Layout

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Completions of this rank's requests by the policy as it stands, in order."""
        ...

    def reward(self, samples: Sequence[Sample], completions: Sequence[Completion]) -> dict[str, Sequence[float | None]]:
        """What each reward of the run gives to each completion of a sample's prompt; None where it does not apply.

        Raises TkError on every rank where a reward misbehaves on one.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON-able value, in rank order."""
        ...

    def score(self, batches: Sequence[Batch], passes: Sequence[Pass]) -> list[Mapping[str, Rows]]:
        """Statistics of any role without gradient: old log-probs, values, teacher states."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Checkpoint names and full tensors of the policy, adapter merged where there is one."""
        ...


@dataclass(frozen=True)
class Stat:
    """A statistic of the head that a loss wants, with its parameters and the role whose model is asked.

    On the vocabulary, [N] each: logps (of `targets`), mean_logps (over the vocabulary), entropy, logsumexp;
    logits is [N, V]. They are of the distribution that is sampled from at `temperature`, which divides the logits,
    `top_p` and `top_k`; in it is always the target. On hidden states: value [N], score [R, labels], pooled [R, H].
    """

    name: str
    temperature: float = 1.0
    role: str = "policy"
    top_p: float = 1.0
    top_k: int = 0

    @property
    def key(self) -> str:
        """Its name among the statistics that a loss is given: "logps", or "reference.logps" of another role."""
        return self.name if self.role == "policy" else f"{self.role}.{self.name}"


@dataclass(frozen=True)
class Role:
    """A model that takes part.

    name: policy, reference, critic, teacher …; what passes ask for.
    trainable: its parameters are updated.
    of: the role whose module it shares ("" for a module of its own). With `adapter_off`, that module untuned: its
        adapter switched off, or a frozen copy of the checkpoint where the tuner has none. Trained without it, it has a
        value head of its own on the hidden states of that module, which is trained by both.
    head: what its module ends in.
    lr_scale: factor on the learning rate of its parameters.
    checkpoint: another checkpoint than the run's.
    precomputed: a frozen role whose statistics of each example are computed once, before the first step, and kept with
        the run; then its model is let go. For methods whose source is the data. Where it shares a module, it is that
        module as the run begins.
    """

    name: str
    trainable: bool = True
    of: str = ""
    adapter_off: bool = False
    head: Head = LM_HEAD
    lr_scale: float = 1.0
    checkpoint: str = ""
    precomputed: bool = False


@dataclass(frozen=True)
class Pass:
    """A forward that a method asks for. The trainer runs all passes of a batch inside the wrapped module."""

    wants: tuple[Stat, ...]
    role: str = "policy"
    grad: bool = True
    id: str = ""

    @property
    def key(self) -> str:
        """Name of its outputs: the id, or the role where there is none."""
        return self.id or self.role


@dataclass(frozen=True)
class Term:
    """A part of the objective: `sum` (a scalar tensor) over this batch, never a mean; its normaliser is `weights[name]`.

    each: the values that the sum is of. With scope "window", an evaluation takes its intervals from them where there is
    one an example.
    """

    sum: Tensor
    coef: float = 1.0
    each: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The objective of a batch: sum over terms of coef · (sum over window and ranks) / (weight over window and ranks).

    metrics: name -> (sum, weight), reported as the ratio of the totals; instead of the sum, the values that it is of. A weight
    that is counted on the device is best left there, as a tensor.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)


@runtime_checkable
class Loss(Protocol):
    """A loss: a pure function with options. Built as `target([options])`.

    unit: what its values are counted by: "token" (Σ token weights), "sequence" (samples), "pair" (a chosen sample and
        the rejected one after it) or "query".
    wants: the statistics that it reads, by their keys.
    A loss whose rows see each other says so with an attribute `scope = "window"`; without it, it is additive ("row").
    """

    unit: Literal["token", "sequence", "pair", "query"]
    wants: tuple[Stat, ...]

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        """One value a row, [R] (a pair: [R/2]): a sum over its tokens, never a mean. Differentiable in `stats`."""
        ...


@runtime_checkable
class Method(Protocol):
    """The flow of a training method. Built as `target([options], losses={name: (weight, Loss)})`.

    It never calls a model: it asks for passes, and turns their statistics into named terms. Pure but for what it was
    built with, so that a foreign trainer can run it unchanged.
    A method that needs something of sampling or rewards has `check(settings: Settings) -> None`, which is called before
    anything is loaded, for plans too, and raises UsageError. One that has something to say of the training examples as a
    whole has `examine(examples: Sequence[Example]) -> Sequence[str]`: notes for the user; it raises DataError where they
    can teach nothing.
    """

    scope: Literal["row", "window"]

    def roles(self) -> Sequence[Role]: ...

    def source(self, data: Source, session: Session) -> Source:
        """The outer loop: offline methods return `data` (windows of the data set) as it is, online ones wrap it."""
        ...

    def encode(self, samples: Sequence[Sample], template: Template, limit: Limit) -> list[Sequence[Example]]:
        """Examples of each sample (several where it was split, none where `limit` drops it)."""
        ...

    def collate(self, rows: Sequence[Sequence[Example]], layout: Layout) -> Batch:
        """A batch of rows; a row holds one example, or several where `layout.packing`."""
        ...

    def evaluate(self, examples: Sequence[Example], session: Session) -> list[Figures] | None:
        """Figures of held-out examples (this rank's) that `loss` cannot give, because they come from generating.

        One mapping an example. None: the figures of `loss` say it all. Every rank calls it equally often.
        """
        ...

    def passes(self, batch: Batch) -> Sequence[Pass]: ...

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        """Terms of the objective. `outputs[pass.key][stat.name]`.

        With scope "window" the outputs are those of the whole window over all ranks, joined along their first
        dimension, in the order rank-major, and `batch` is the window's batches joined alike (`fields` that are
        tensors; `rows` and `weights` summed).
        """
        ...
