"""The sections of a run's config that are the kernel's own; the others hold the options of chosen components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class ModelSection:
    """Which checkpoint, and how it is loaded. The family's own options stand beside these."""

    name: Annotated[str, doc("Checkpoint: a folder, a hub id, or a short name (`tk models list`).")] = ""
    family: Annotated[str, doc("Model family (plugin); found from the checkpoint unless given.")] = ""
    revision: Annotated[str | None, doc("Branch, tag or commit on the hub.")] = None
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        doc(
            "Type of the weights in memory; auto: fp32 on a CPU and where train.precision is fp32, else the checkpoint's own "
            "for those that are frozen, and fp32 for those that are trained."
        ),
    ] = "auto"
    attention: Annotated[str, doc("Attention implementation of transformers (sdpa, eager, flash_attention_2).")] = (
        "auto"
    )
    trust_remote_code: Annotated[bool, doc("Run Python code that the checkpoint brings.")] = False
    adapters: Annotated[
        dict[str, str], doc("Adapters to generate with, by name: folder of a run, or one that peft has written.")
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceSection:
    """One set of rows."""

    path: Annotated[str, doc("A file, or the name of a data set (`tk datasets list`).")] = ""
    format: Annotated[str, doc("Shape of the rows (`tk formats list`); recognised unless given.")] = "auto"
    options: Annotated[dict[str, Any], doc("Options of the data set or reader (`tk datasets show NAME`).")] = field(
        default_factory=dict
    )
    columns: Annotated[dict[str, str], doc("Rename columns first: {theirs: ours}.")] = field(default_factory=dict)
    first: Annotated[int | None, doc("Use only this many rows, from the start.", ge=1)] = None


@dataclass(frozen=True)
class DataSection:
    """Where rows come from, and how they become rows of tokens."""

    sources: Annotated[dict[str, SourceSection], doc("Sets of rows by a name of yours.")] = field(default_factory=dict)
    max_length: Annotated[int | None, doc("Longest example in tokens; the model's own limit unless given.", ge=1)] = (
        None
    )
    truncation: Annotated[
        Literal["error", "drop", "left", "right", "split"], doc("What becomes of a longer example.")
    ] = "error"
    packing: Annotated[bool, doc("Put several examples in one row of max_length tokens; none sees another.")] = False
    shared_prefix: Annotated[
        Literal["auto", "off"],
        doc("Compute a prompt once for all answers to it, in one row, where the model can and the prompt is long."),
    ] = "auto"
    padding_side: Annotated[Literal["auto", "left", "right"], doc("Where padding stands.")] = "auto"
    on_error: Annotated[
        Literal["stop", "skip"], doc("A bad row stops the run, or is counted, reported and written aside.")
    ] = "stop"
    shuffle: Annotated[bool, doc("A new order in every epoch, from the seed.")] = True
    workers: Annotated[int, doc("Threads that decode media and lay out batches beside the training.", ge=1)] = 1


@dataclass(frozen=True)
class MediaSection:
    """Where pictures, videos and sounds may be read from."""

    root: Annotated[
        str, doc("Folder of relative paths; the data file's own, or else the working folder, unless given.")
    ] = ""
    hosts: Annotated[list[str], doc("Hosts that URLs may name (*.example.org: and below it); none unless given.")] = (
        field(default_factory=list)
    )
    pixel_limit: Annotated[int, doc("A picture of more pixels is refused before it is decoded.", ge=1)] = 100_000_000
    byte_limit: Annotated[int, doc("A larger file behind a URL is refused.", ge=1)] = 100_000_000
    timeout: Annotated[float, doc("Seconds that a host may take to answer.", gt=0)] = 20.0


@dataclass(frozen=True)
class TrainSection:
    """How long and how."""

    epochs: Annotated[float, doc("Passes over the data.", gt=0)] = 1.0
    steps: Annotated[int | None, doc("Optimizer steps, instead of epochs.", ge=1)] = None
    batch_size: Annotated[int, doc("Rows of one optimizer step, over all processes and accumulation.", ge=1)] = 16
    micro_batch_size: Annotated[int, doc("Rows of one forward pass of one process.", ge=1)] = 4
    max_grad_norm: Annotated[float | None, doc("Clip gradients to this global norm.", gt=0)] = 1.0
    seed: Annotated[int, doc("Seed of order, dropout and initialisation.", ge=0)] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        doc("Type of the computation (autocast); auto: bf16 on a device that has it, else fp32."),
    ] = "auto"
    neftune_alpha: Annotated[
        float | None,
        doc(
            "Noise on embeddings in training (NEFTune, arXiv:2310.05914): uniform within ± this / √(tokens · size).",
            gt=0,
        ),
    ] = None
    compile: Annotated[
        bool,
        doc(
            "Compile the model's blocks for training steps (torch.compile): the first steps take longer, later ones less."
        ),
    ] = False
    gradient_checkpointing: Annotated[bool, doc("Recompute activations in the backward pass to save memory.")] = False
    checkpointed_groups: Annotated[
        list[str],
        doc("Module groups whose activations are recomputed (language_model, vision_tower …); all unless given."),
    ] = field(default_factory=list)
    activation_offload: Annotated[
        bool, doc("What the backward pass needs of the forward waits in the memory of the CPU; for devices besides it.")
    ] = False
    save_every: Annotated[
        int | None, doc("Optimizer steps between checkpoints; none but the last unless given.", ge=1)
    ] = None
    keep_last: Annotated[int, doc("Checkpoints that are kept, newest first.", ge=1)] = 2
    weights_only: Annotated[bool, doc("Checkpoints without optimizer state: smaller, and not to be resumed.")] = False
    on_nan: Annotated[
        Literal["stop", "skip"],
        doc(
            "A loss or gradient that is not finite stops the run, or the whole optimizer step is left out and counted."
        ),
    ] = "stop"
    log_every: Annotated[int, doc("Optimizer steps between lines of the log.", ge=1)] = 1
    resume: Annotated[bool, doc("Go on from the newest whole checkpoint in the output folder.")] = False
    start_from: Annotated[
        str | None, doc("Start from the weights of another run or checkpoint, with a new optimizer.")
    ] = None

    def __post_init__(self) -> None:
        if self.checkpointed_groups and not self.gradient_checkpointing:
            raise ValueError("checkpointed_groups: nothing is recomputed without train.gradient_checkpointing: set it.")


@dataclass(frozen=True)
class EvalSection:
    """Evaluation on rows that are not trained on."""

    sources: Annotated[dict[str, SourceSection], doc("Sets of held-out rows by a name of yours.")] = field(
        default_factory=dict
    )
    hold_out: Annotated[
        float, doc("Take this many rows (or this fraction, below 1) out of the training data.", ge=0)
    ] = 0
    every: Annotated[int | None, doc("Optimizer steps between evaluations; at the end only unless given.", ge=1)] = None
    at_start: Annotated[bool, doc("Evaluate before the first step too.")] = True
    batch_size: Annotated[int, doc("Rows of one forward pass.", ge=1)] = 8
    generate: Annotated[
        int,
        doc("Show what the model answers to this many held-out rows (or how it scores them), before and after.", ge=0),
    ] = 0
    max_new_tokens: Annotated[int, doc("Length of those answers in tokens.", ge=1)] = 64


@dataclass(frozen=True)
class PluginsSection:
    """Which plugins this run may use."""

    only: Annotated[list[str], doc("Use no others.")] = field(default_factory=list)
    disable: Annotated[list[str], doc("Do not use these.")] = field(default_factory=list)
    strict: Annotated[bool, doc("A broken plugin is an error.")] = False
    files: Annotated[list[str], doc("Local plugin files.")] = field(default_factory=list)


@dataclass(frozen=True)
class ReportSection:
    """What is written about the run when it ends."""

    html: Annotated[bool, doc("Write report.html.")] = True
    plot: Annotated[bool, doc("Draw the loss curve (loss.png).")] = True


@dataclass(frozen=True)
class OutputSection:
    """Where the run is kept."""

    dir: Annotated[str, doc("Folder of the run; runs/<method>-<model>-<time> unless given.")] = ""
    overwrite: Annotated[bool, doc("Delete another run that is in the folder.")] = False


@dataclass(frozen=True)
class Sampling:
    """How text is generated. With a seed a request's result is its own, whatever is generated beside it."""

    max_tokens: Annotated[int, doc("Longest answer in tokens.", ge=1)] = 256
    temperature: Annotated[float, doc("Divides the logits; 0 takes the likeliest token.", ge=0)] = 0.0
    top_p: Annotated[float, doc("Sample from the likeliest tokens with this total probability.", gt=0, le=1)] = 1.0
    top_k: Annotated[int, doc("Sample from this many of the likeliest tokens; 0: from all.", ge=0)] = 0
    stop: Annotated[tuple[str, ...], doc("Texts that end the answer; they are not part of it.")] = ()
    seed: Annotated[int | None, doc("Seed of a request.")] = None
    n: Annotated[int, doc("Answers to each prompt.", ge=1)] = 1
    logprobs: Annotated[bool, doc("Log-probabilities of the sampled distribution with the answer.")] = False
    top_logprobs: Annotated[
        int, doc("With logprobs: those of this many of the likeliest tokens in each place as well.", ge=0)
    ] = 0
    repetition_penalty: Annotated[float, doc("Divides the logits of tokens seen before.", gt=0)] = 1.0
    presence_penalty: Annotated[float, doc("Taken from the logits of tokens that the answer has already.")] = 0.0
    frequency_penalty: Annotated[
        float, doc("Taken from the logits of a token as many times as the answer has it already.")
    ] = 0.0
    min_p: Annotated[
        float, doc("Sample from tokens with at least this share of the likeliest one's probability.", ge=0, le=1)
    ] = 0.0
    logit_bias: Annotated[dict[str, float], doc("Added to the logits of tokens, by their ids.")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: they come with the log-probabilities of the answer: set logprobs.")

    @property
    def reshapes(self) -> bool:
        """Whether tokens are sampled from another distribution than the model's own."""
        cut = self.temperature not in (0, 1) or self.top_k > 0 or self.top_p < 1 or self.min_p > 0
        return bool(self.shifts) or (self.temperature > 0 and cut)

    @property
    def shifts(self) -> Sequence[str]:
        """The fields by which logits are changed before they are made a distribution."""
        return [name for name, plain in SHIFTS.items() if getattr(self, name) != plain]

    @property
    def needs(self) -> Mapping[str, str]:
        """What is asked for that not every engine can: capability (tk.capabilities) -> the field that asks for it."""
        return {word: name for name, word in FURTHER.items() if getattr(self, name)}


SHIFTS: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
}
"""Fields of Sampling that change logits, with what leaves them as they are."""

FURTHER: Mapping[str, str] = {
    "top_logprobs": "top-logprobs",
    "presence_penalty": "penalties",
    "frequency_penalty": "penalties",
    "min_p": "min-p",
    "logit_bias": "logit-bias",
}
"""Fields of Sampling that not every engine knows, with the capability by which an engine says that it does."""


@dataclass(frozen=True)
class RewardShare:
    """What every reward has besides its own options."""

    time_limit: Annotated[
        float, doc("Seconds that it may take for the answers of a step; a run whose reward takes longer ends.", gt=0)
    ] = 300.0


FIXED: Mapping[str, type] = {
    "model": ModelSection,
    "data": DataSection,
    "media": MediaSection,
    "train": TrainSection,
    "eval": EvalSection,
    "plugins": PluginsSection,
    "report": ReportSection,
    "output": OutputSection,
    "sampling": Sampling,
}
"""Sections with fields of the kernel's own. All others belong to a kind (KindSpec.section)."""

KEPT = ("dtype", "attention")
"""Fields of `model` that stay where another checkpoint is named: they are not about the one before."""

SCALARS: Mapping[str, str] = {"model": "name", "output": "dir"}
"""What a section means when it is a plain word: `model: x` is `model: {name: x}`."""


def expand(section: str, value: Any) -> Any:
    """A section's short form as its long one; anything else as it is."""
    if isinstance(value, str) and section in SCALARS:
        return {SCALARS[section]: value}
    if isinstance(value, str) and section in ("data", "eval"):
        return {"sources": {section: {"path": value}}}
    if isinstance(value, Mapping) and section in ("data", "eval") and isinstance(value.get("sources"), Mapping):
        sources = {k: {"path": v} if isinstance(v, str) else v for k, v in value["sources"].items()}
        return {**value, "sources": sources}
    return value
