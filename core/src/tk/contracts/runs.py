"""A run: the trainer, how it is spread over processes, and what watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.contracts.models import ParamGroup
from tk.contracts.world import World

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tk.compose import Plan


class Strategy(Protocol):
    """How a model is spread over processes. Built as `target([options])`; of one run.

    One by which a process does not hold whole models by itself, alone or among others, says so with
    `share(module: nn.Module, processes: int, precision: str) -> Share`, which is asked for estimates of memory, before `start`.
    """

    def start(self) -> World:
        """Join the run's processes (torchrun's environment; alone where there is none)."""
        ...

    def wrap(
        self,
        module: nn.Module,
        precision: str,
        optimizer: Callable[[], torch.optim.Optimizer],
        max_norm: float | None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module to call, and what its weights are updated by: rates of its `param_groups` are set before a step.

        precision: "fp32", "bf16" or "fp16" of the computation. optimizer: makes the optimizer of the module's parameters
        as they stand when it is called, once, before or after they are spread. max_norm: gradients are clipped to this
        global norm; None: they are not.
        """
        ...

    def synchronise(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a micro-batch: gradients are exchanged on the window's last one."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Gradients of Σ over ranks of `loss` (not their mean)."""
        ...

    def step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """Clip by the global norm, update, forget the gradients. Returns the norm before clipping (nan: skipped)."""
        ...

    def drop(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients of a window, wherever they are kept, without an update."""
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
        """Full optimizer state as `parameter name/key` and CPU tensors; every rank calls it, rank 0 receives them."""
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
class Share:
    """What a process of a run holds of all models, as parts of what they are on one process.

    gathered: bytes that it holds besides at the peak, of what the others have, or copies. kept: gradients have their memory all
    the time.
    """

    weights: float = 1.0
    gradients: float = 1.0
    optimizer: float = 1.0
    gathered: int = 0
    kept: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes of a process on its device, when it takes the most.

    weights: of all models, adapters and buffers. activations: what is computed, and what is kept of it for the backward pass.
    other: what is there without a model: interpreter, libraries, data.
    moment: when this is. complete: nothing was left out, because it cannot be told without weights.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    other: int
    total: int
    moment: str
    complete: bool = True


@dataclass(frozen=True)
class TrainPlan:
    """What a run would do, found without loading weights.

    rows, examples, tokens, supervised: of one epoch. steps: optimizer steps of the run. parameters: total and trainable.
    components: kind -> name, distribution, version of each resolved part. notes: what the user should know besides.
    memory: an estimate; None in a run, which measures it, and of a trainer that makes none.
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
    notes: Sequence[str] = ()
    memory: Memory | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    evals: figures of the last evaluation; first: of the one before training. `loss_low` and `loss_high` are the 95 %
    bootstrap interval of `loss` over rows.
    samples: held-out prompts with the model's answers: prompt (messages), reference, before, after.
    stopped: why the run ended early; a signal's name where it is not finished and can be resumed.
    dropped: optimizer steps that were left out, because a loss or gradient was not finite.
    next: what can be done with it: in words -> the command.
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
    dropped: int = 0
    next: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Launcher(Protocol):
    """How the processes of a run are started. Built as `target([options])`.

    here: there is nothing to start, this process is the run. waits: `launch` returns when the run has ended.
    processes: of the run.
    """

    here: bool
    waits: bool
    processes: int

    def launch(self, command: Sequence[str], folder: Path, own: Path) -> str:
        """Start processes of a command, which find one another by torchrun's environment, for a run in `folder`.

        own: a folder of this start, for files; it is deleted when the run has ended, where the launcher waits for it, and
        where it cannot begin. The first process prints where this one does. Returns to whom the run was handed over, in words;
        "" where it has ended well. Raises TkError that names the process that failed.
        """
        ...

    def shown(self, command: Sequence[str], folder: Path) -> str:
        """What would be started, for people."""
        ...


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

    def check(self, figures: Mapping[str, float]) -> None:
        """Before the first step: the figures of an evaluation, none where nothing is held out. Raises UsageError."""
        ...

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
    """Where figures go. Built as `target([options], folder=Path)`; used on rank 0 only.

    folder: what it keeps on disk goes there: `<run>/<tracker>`, not there yet, and gone when the run is overwritten.
    One that shows how far long work between steps is (an evaluation, say) has
    `progress(what: str, done: int, total: int) -> None`.
    """

    def start(self, plan: TrainPlan, config: Mapping[str, Any], step: int) -> None:
        """The run begins, or goes on after `step`: figures of later steps, from before it was cut off, come again.

        config: as others may see it, with "***" in the place of what is secret.
        """
        ...

    def log(self, kind: Literal["train", "eval"], step: int, figures: Mapping[str, float]) -> None: ...
    def finish(self, result: TrainResult | None) -> None:
        """The run ended; None where it failed."""
        ...
