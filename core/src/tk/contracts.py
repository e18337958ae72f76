"""What concrete components are: the protocols behind every kind, and the data that passes between them.

The way of the data in a training run:

    Dataset -> Row -> (format) Sample -> Method.encode (Template) -> Example -> Method.collate -> Batch
    -> Source: windows of batches, one window an optimizer step, the same number of batches on every rank
    -> Method.passes -> forward of the scored model -> Method.loss -> Step (named terms) -> backward, update

Shapes: B rows of a micro-batch as the model sees them, T tokens of the longest, N positions selected for the head,
R samples (R = B without packing). Nothing here imports torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.config.sections import Sampling
from tk.sample import Message, Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tk.compose import Plan

Rows = Mapping[str, "Tensor"]
Reduce = Callable[["Tensor"], "Tensor"]
"""[N] values of selected tokens -> [R] sums by sample, differentiable, over all ranks that share a sample."""


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A raw row and where it stands: `origin` is "file:line" (or "name:index")."""

    data: Any
    origin: str


class RowSet(Protocol):
    """An opened data set: random access, a length, and a fingerprint of its content (sha256 hex)."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Row: ...


@runtime_checkable
class Dataset(Protocol):
    """A named data set or a reader of files. Built as `target([options])`."""

    def open(self, path: str) -> RowSet:
        """Open the set. `path` is the file for a reader, "" for a named set. Raises DataError with file and line."""
        ...


@runtime_checkable
class Format(Protocol):
    """A shape of rows. Built as `target([options])`."""

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        """The row's meaning; columns that the format does not read become `extras`. The caller adds `origin`.

        Raises ValueError with the reason where the row has not this shape.
        """
        ...


@dataclass(frozen=True)
class Encoding:
    """A sample as tokens: `ids`, and for each the weight of predicting it (0: not trained). Media by model input name."""

    ids: Sequence[int]
    weights: Sequence[float]
    media: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Template(Protocol):
    """A chat format. Built as `target([options], tokenizer=..., processor=None)`.

    Ids equal the checkpoint's own rendering for content without spellings of special tokens; content that spells a
    special token is encoded as text.
    """

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        """Tokens of each sample's conversation. `generation`: up to where the assistant begins to speak, no weights.

        Raises DataError, naming `sample.origin`, where a conversation cannot be rendered.
        """
        ...

    def extend(self, ids: Sequence[int], messages: Sequence[Message]) -> Encoding:
        """`ids` (as sampled, never rendered again) followed by further messages, ready for the assistant to go on."""
        ...

    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end the assistant's turn."""
        ...


@dataclass(frozen=True)
class Example:
    """What a method makes of a sample and the source stores: plain arrays, no padding.

    length: tokens it takes in a row; what packing and sorting go by.
    values: arrays by name, read by the method's own `collate`.
    weights: what it adds to the normaliser of each of the method's terms.
    origin: as in the sample.
    """

    length: int
    values: Mapping[str, Any]
    weights: Mapping[str, float]
    origin: str = ""


@dataclass(frozen=True)
class Layout:
    """How rows are laid out as tensors. `packing`: rows hold several examples that must not see one another."""

    pad_id: int
    side: Literal["left", "right"] = "right"
    packing: bool = False
    multiple: int = 1


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank.

    inputs: arguments of the model's forward (input_ids [B, T], attention_mask, position_ids, media …).
    fields: what the head and the loss read. Token methods: `select` [N] (flat positions in B·T whose hidden state
        predicts), `targets` [N], `token_weights` [N], `rows` [N] (sample of each).
    weights: what it adds to the normaliser of each term, known before any forward.
    rows: R, the number of samples. tokens: tokens that are not padding.
    filler: gives this rank as many batches as the others; it is run, and counts for nothing.
    """

    inputs: Mapping[str, Any]
    fields: Mapping[str, Any]
    weights: Mapping[str, float]
    rows: int
    tokens: int = 0
    filler: bool = False


@dataclass(frozen=True)
class Window:
    """The micro-batches of one optimizer step on one rank: as many on every rank.

    cursor: JSON-able state of the source just after this window; `Source.windows(cursor)` goes on from there.
    epoch: passes over the data done after this window.
    """

    batches: Sequence[Batch]
    cursor: Mapping[str, Any]
    epoch: float = 0.0


class Source(Protocol):
    """The outer loop of a run. Offline methods iterate over a data set; online methods roll out."""

    def __len__(self) -> int:
        """Windows in the whole run."""
        ...

    def windows(self, cursor: Mapping[str, Any] | None = None) -> Iterator[Window]:
        """Windows from the start, or from just after the one whose cursor is given."""
        ...

    def updated(self, step: int, session: Session) -> None:
        """Called after each optimizer step."""
        ...


class Session(Protocol):
    """What a running trainer offers to a source."""

    def score(self, batches: Sequence[Batch], passes: Sequence[Pass]) -> list[Mapping[str, Rows]]:
        """Statistics of any role without gradient: old log-probs, values, teacher states."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Checkpoint names and full tensors of the policy, adapter merged where there is one."""
        ...


# --- forward and objective -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stat:
    """A statistic of the head that a loss wants, with its parameters.

    On the vocabulary, [N] each: logps (of `targets`), mean_logps (over the vocabulary), entropy, logsumexp;
    logits is [N, V]. `temperature` divides the logits first. On hidden states: value [N], score [R, labels],
    pooled [R, H].
    """

    name: str
    temperature: float = 1.0


@dataclass(frozen=True)
class Role:
    """A model that takes part.

    name: policy, reference, critic, teacher …; what passes ask for.
    trainable: its parameters are updated.
    of: the role whose module it shares ("" for a module of its own). With `adapter_off`, that module untuned.
    head: "lm" or "value" (one number a token).
    lr_scale: factor on the learning rate of its parameters.
    checkpoint: another checkpoint than the run's.
    """

    name: str
    trainable: bool = True
    of: str = ""
    adapter_off: bool = False
    head: Literal["lm", "value"] = "lm"
    lr_scale: float = 1.0
    checkpoint: str = ""


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
    """A part of the objective: `sum` (a scalar tensor) over this batch, never a mean; its normaliser is `weights[name]`."""

    sum: Tensor
    coef: float = 1.0


@dataclass(frozen=True)
class Step:
    """The objective of a batch: sum over terms of coef · (sum over window and ranks) / (weight over window and ranks).

    metrics: name -> (sum, weight), reported as the ratio of the totals.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)


@runtime_checkable
class Loss(Protocol):
    """A loss: a pure function with options. Built as `target([options])`.

    unit: what its values are counted by: "token" (Σ token weights), "sequence" (samples), "pair" or "query".
    wants: the statistics that it reads.
    A loss whose rows see each other says so with an attribute `scope = "window"`; without it, it is additive ("row").
    """

    unit: Literal["token", "sequence", "pair", "query"]
    wants: tuple[Stat, ...]

    def __call__(self, stats: Rows, fields: Rows, reduce: Reduce) -> Tensor:
        """One value a row, [R]: a sum over the row's tokens, never a mean. Differentiable in `stats`."""
        ...


@runtime_checkable
class Method(Protocol):
    """The flow of a training method. Built as `target([options], losses={name: (weight, Loss)})`.

    It never calls a model: it asks for passes, and turns their statistics into named terms. Pure but for what it was
    built with, so that a foreign trainer can run it unchanged.
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

    def passes(self, batch: Batch) -> Sequence[Pass]: ...

    def loss(self, outputs: Mapping[str, Rows], batch: Batch, reduce: Reduce) -> Step:
        """Terms of the objective. `outputs[pass.key][stat.name]`.

        With scope "window" the outputs are those of the whole window over all ranks, joined along their first
        dimension, in the order rank-major, and `batch` is the window's batches joined alike (`fields` that are
        tensors; `rows` and `weights` summed).
        """
        ...


@dataclass(frozen=True)
class Limit:
    """The longest example, and what becomes of a longer one: an error, dropped, cut on a side, or split."""

    max_length: int | None = None
    truncation: Literal["error", "drop", "left", "right", "split"] = "error"


# --- models, tuners, strategies, trainers ----------------------------------------------------------------------------


@dataclass
class LoadedModel:
    """A model in memory with what belongs to it.

    module: the torch module (on the meta device for plans).
    tokenizer, processor: as transformers loads them (processor None for text).
    path: the folder or id that it was loaded from; what an adapter names as its base.
    groups: module groups (language_model, vision_tower, aligner …) -> name prefixes.
    supports: capabilities of this checkpoint (packing needs every layer to receive sample boundaries).
    """

    module: Any
    tokenizer: Any
    path: str
    processor: Any = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    supports: frozenset[str] = frozenset()


@runtime_checkable
class ModelFamily(Protocol):
    """A model family. Built as `target([options])`."""

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Folder of a checkpoint, fetched or converted first where needed. `name`: short name, folder or hub id."""
        ...

    def load(
        self,
        path: str,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        head: Literal["lm", "value"] = "lm",
        attention: str = "auto",
        trust_remote_code: bool = False,
    ) -> LoadedModel:
        """Load a resolved checkpoint. device "meta" reads no weights; "auto" is the accelerator where there is one."""
        ...

    def save(self, model: LoadedModel, folder: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Write a checkpoint that plain transformers opens; `weights` replace the module's own."""
        ...


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with their own factor on the learning rate, and weight decay on or off."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    decay: bool = True
    name: str = ""


@runtime_checkable
class Tuner(Protocol):
    """What is trained of a model. Built as `target([options])`."""

    def attach(self, model: LoadedModel) -> None:
        """Freeze, or put adapters on `model.module` (replaced where need be). Works on the meta device."""
        ...

    def parameter_groups(self, module: nn.Module) -> Sequence[ParamGroup]: ...

    def adapter_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """The untuned model for as long as it is entered. Raises TkError where the tuner has no such thing."""
        ...

    def save(self, model: LoadedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write what was trained in the form that peft or transformers opens; `weights`: full trained tensors by name."""
        ...

    def load(self, model: LoadedModel, folder: Path) -> None:
        """Read into an attached module what `save` wrote."""
        ...

    def merge(self, model: LoadedModel) -> None:
        """Fold adapters into the base weights, so that `model.module` is a plain model with the base's keys."""
        ...


@dataclass(frozen=True)
class World:
    """This process among the run's: rank in 0 … size-1, and its device ("cpu", "cuda:0")."""

    rank: int
    size: int
    device: str


class Strategy(Protocol):
    """How a model is spread over processes. Built as `target([options])`."""

    def start(self) -> World:
        """Join the run's processes (torchrun's environment; alone where there is none)."""
        ...

    def wrap(self, module: nn.Module, precision: str) -> nn.Module:
        """The module to call. `precision`: "fp32", "bf16" or "fp16" of the computation."""
        ...

    def synchronise(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch: gradients are exchanged on the window's last one."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Gradients of Σ over ranks of `loss` (not their mean)."""
        ...

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float | None) -> float:
        """Clip by the global norm, update, zero the gradients. Returns the norm before clipping (nan: skipped)."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks."""
        ...

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every rank's tensor, in rank order; first dimensions may differ."""
        ...

    def weights(self, module: nn.Module, trainable: bool) -> Iterator[tuple[str, Tensor]]:
        """Names and full CPU tensors; every rank calls it, rank 0 receives them."""
        ...

    def optimizer_state(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
        """Full optimizer state as flat names and CPU tensors; every rank calls it, rank 0 receives them."""
        ...

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> None:
        """Put back what `weights` and `optimizer_state` gave, on any number of processes."""
        ...

    def stop(self) -> None:
        """Leave the run's processes."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `metrics`: the last evaluation before it."""

    path: Path
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainPlan:
    """What a run would do, found without loading weights.

    rows, examples, tokens, supervised: of one epoch. steps: optimizer steps of the run. parameters: total and trainable.
    components: kind -> name, distribution, version of each resolved part.
    """

    rows: int
    examples: int
    tokens: int
    supervised: float
    skipped: Mapping[str, int]
    steps: int
    batch_size: int
    accumulation: int
    world: int
    parameters: int
    trainable: int
    components: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    evals: figures of the last evaluation; first: of the one before training. `loss_low` and `loss_high` are the 95 %
    bootstrap interval of `loss` over rows.
    samples: held-out prompts with the model's answers: prompt (messages), reference, before, after.
    stopped: why the run ended early; a signal's name where it is not finished and can be resumed.
    """

    output: Path
    steps: int
    metrics: Mapping[str, float]
    evals: Mapping[str, float]
    first: Mapping[str, float]
    checkpoints: Sequence[Checkpoint]
    seconds: float
    tokens: int
    peak_memory: int
    stopped: str = ""
    samples: Sequence[Mapping[str, Any]] = ()


@runtime_checkable
class Trainer(Protocol):
    """A training loop. Built as `target([options])`."""

    def plan(self, plan: Plan) -> TrainPlan: ...

    def fit(self, plan: Plan, observers: Sequence[Tracker] = ()) -> TrainResult: ...


class OptimizerFactory(Protocol):
    """Built as `target(options)`."""

    def __call__(self, groups: Sequence[ParamGroup]) -> torch.optim.Optimizer:
        """The optimizer, each group at the options' learning rate times its `lr_scale`."""
        ...


class Schedule(Protocol):
    """A learning-rate schedule: a pure function of the step. Built as `target(options)`."""

    def __call__(self, step: int, total: int) -> float:
        """Factor on the learning rate for optimizer step `step` (0-based) of `total`."""
        ...


class Control(Protocol):
    """What a callback may ask of the run."""

    step: int
    total: int

    def save(self) -> None:
        """A checkpoint after this step."""
        ...

    def stop(self, reason: str) -> None:
        """End the run after this step, as if it had come to its end."""
        ...

    def scale_lr(self, factor: float) -> None:
        """Multiply the learning rate from the next step on."""
        ...

    def keep(self, checkpoints: Sequence[Path]) -> None:
        """The checkpoints that this callback wants kept, whatever the retention says."""
        ...


class Callback(Protocol):
    """Watches a run. Built as `target([options])`. Every method may be left to `tk.callbacks.Base`."""

    def on_step(self, control: Control, metrics: Mapping[str, float]) -> None: ...
    def on_eval(self, control: Control, metrics: Mapping[str, float]) -> None: ...
    def on_checkpoint(self, control: Control, checkpoint: Checkpoint) -> None: ...
    def state(self) -> Mapping[str, Any]:
        """JSON-able; saved in checkpoints."""
        ...

    def load(self, state: Mapping[str, Any]) -> None: ...


class Metric(Protocol):
    """Over the records of a whole set. Built as `target([options])`."""

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> Mapping[str, float]: ...


@runtime_checkable
class Tracker(Protocol):
    """Where figures go. Built as `target([options], folder=Path)`; used on rank 0 only."""

    def start(self, plan: TrainPlan, config: Mapping[str, Any]) -> None: ...
    def log(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None: ...
    def finish(self, result: TrainResult | None) -> None:
        """The run ended; None where it failed."""
        ...


class Exporter(Protocol):
    """A form that a trained model is written in. Built as `target([options])`."""

    def export(self, model: LoadedModel, folder: Path, *, family: ModelFamily) -> Path:
        """Write a merged model; nothing is left behind where it fails. Returns the folder or file written."""
        ...


class Hub(Protocol):
    """Built as `target([options])`."""

    def fetch(self, name: str, revision: str | None = None) -> Path: ...


# --- generation and rewards ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A prompt as token ids (templates tokenise, engines never do), and how to sample."""

    ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: tuple[int, ...] = ()
    media: Mapping[str, Any] = field(default_factory=dict)


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
    """What generates. Built as `target([options], model=LoadedModel)`."""

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """`sampling.n` completions of each request, in order."""
        ...

    def stream(self, request: Request) -> Iterator[Delta]: ...

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Scored:
    """A batch to be rewarded; all sequences have one entry a completion.

    prompts: the conversation before the completion. completions: the assistant's message.
    completion_ids, finish_reasons: as the engine gave them. columns: the row's other columns by name.
    engines: the run's named engines, for judges.
    """

    prompts: Sequence[Sequence[Message]]
    completions: Sequence[Message]
    completion_ids: Sequence[Sequence[int]] = ()
    finish_reasons: Sequence[str] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)


@runtime_checkable
class Reward(Protocol):
    """A score of completions. Built as `target([options])`."""

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        """One finite float each, or None where the reward does not apply."""
        ...
