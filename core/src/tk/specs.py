"""Declarative descriptions of plugins' components: what a hook returns, and all that listing one needs.

A spec never imports what it describes: `target` and `config` name things as "module:attribute", which are
imported when the component is used (`target`) or its options are shown (`config`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TK_API = 1
"""Version of the kernel's plugin interface. A plugin module may declare `TK_API = n`; another n is refused."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One component that users select by name.

    name: what users write, unique within the kind.
    target: "module:attribute" (or the object itself, for a local plugin file): a class or factory. It is called with
        the component's options (an instance of `config`) as its first argument, when there is a `config`, and with
        the keyword arguments that the kind's contract names.
    config: "module:attribute" (or the class) of a frozen dataclass with the options, in a module free of torch.
    summary: one line for lists and help.
    aliases: other names for the same component.
    requires / supports: capabilities (tk.capabilities).
    defaults: config path -> value that this component suggests where the user says nothing, e.g. {"optim.lr": 2e-4}.
    uses: keyword -> config section of a kind that selects one component: what is chosen there is built and given to
        `target` under that keyword, e.g. {"penalty": "penalty"}.
    extra: what to install where the component needs more than its package brings, e.g. "tk-plugin-vllm[cpu]"; options of
        pip that it has to be installed with stand before it.
    needs: what has to be here besides, asked for without importing it: "module:NAME" of a module that can be imported,
        "program:NAME" of one on the path (tk.needs).
    elsewhere: options that have it run elsewhere (another interpreter, a server), so that one of them set means that
        nothing is needed here, e.g. ("python", "url").
    """

    name: str
    target: str | Callable[..., Any]
    config: str | type | None = None
    summary: str = ""
    aliases: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    supports: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)
    extra: str = ""
    needs: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


# Subclasses without fields of their own inherit the dataclass as it is: making one costs a millisecond at every start.


@dataclass(frozen=True)
class Matches:
    """How a model family recognises a checkpoint, from what can be read without loading it.

    architectures: entries of config.json's "architectures".
    model_types: config.json's "model_type".
    ids: fnmatch patterns over the id or folder name, lower case.
    """

    architectures: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec):
    """A model family. `checkpoints` maps the short names that it resolves itself to one line about each."""

    matches: Matches = field(default_factory=Matches)
    fallback: bool = False
    template: str = ""
    checkpoints: Mapping[str, str] = field(default_factory=dict)


class TemplateSpec(Spec):
    """A chat format: messages -> token ids with a loss weight each."""


class TunerSpec(Spec):
    """What is trained of a model: everything, some groups, an adapter."""


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """A loss. `methods`: names of the methods it is written for (empty: any that gives it what it wants)."""

    methods: tuple[str, ...] = ()


class RewardSpec(Spec):
    """A score of completions."""


class EngineSpec(Spec):
    """Something that generates."""


class MethodSpec(Spec):
    """A training method: the flow of data from samples to terms of an objective."""


class TrainerSpec(Spec):
    """The training loop."""


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Spec):
    """How a model is spread over processes.

    environment: "module:function" (or the function), free of torch: options -> variables that processes need from their
        start, besides torchrun's. Where it is given, a launcher starts even a single process.
    """

    environment: str | Callable[..., Mapping[str, str]] = ""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A named data set, or a reader of files. `suffixes`: the file endings that a reader opens ("jsonl", "csv")."""

    suffixes: tuple[str, ...] = ()


class OptimizerSpec(Spec):
    """An optimizer."""


class SchedulerSpec(Spec):
    """A learning-rate schedule."""


class CallbackSpec(Spec):
    """Something that watches a run and may ask for a save or a stop, or change learning rates."""


class MetricSpec(Spec):
    """An evaluation metric over the records of a whole set."""


class TrackerSpec(Spec):
    """A place that a run's figures are sent to."""


class HubSpec(Spec):
    """A place that checkpoints and data sets come from."""


class ExporterSpec(Spec):
    """A form that a trained model is written in."""


class EvaluatorSpec(Spec):
    """A benchmark harness."""


class LauncherSpec(Spec):
    """How the processes of a run are started."""


class ServerSpec(Spec):
    """How a model is offered to clients over a network."""


class CommandSpec(Spec):
    """A command of `tk`: help shows it without importing it; `target` is a Typer app or a function."""


@dataclass(frozen=True, kw_only=True)
class FormatSpec(Spec):
    """A shape of rows. `columns`: sets of columns by which it is recognised; one whole set in a row suffices.

    Of several formats that recognise a row, the one with the larger set is meant.
    """

    columns: tuple[tuple[str, ...], ...] = ()

    def recognises(self, columns: Iterable[str]) -> int:
        """The size of the largest set that is among these columns; 0 where none is."""
        there = set(columns)
        return max((len(alternative) for alternative in self.columns if set(alternative) <= there), default=0)


@dataclass(frozen=True, kw_only=True)
class DialectSpec(Spec):
    """A way in which local plugin files are written for another framework. `summary`: what is looked for in a file.

    imports: top-level packages of the framework; a file that imports one of them is of this dialect. Without any, it is
        asked about files in which nothing else was found.
    """

    imports: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KindSpec:
    """A kind of component: its registry, its hook and its `tk <name> list|show|check`.

    name: plural, as in `tk losses list`; the hook is `tk_<name>` with dashes as underscores.
    singular: as in "no loss named …".
    spec: class of the specs that the hook returns.
    contract: "module:attribute" of the protocol that `target` fulfils, for the docs.
    section: the config section that selects it; empty where the kind is not selected in a run.
    selects: what the section holds: "one" component ({name, options}), several by component name with a weight
        ("weighted": {name: 0.8}) or with options only ("several": {name: {…}}), or several by the user's own names
        ("named": {judge: {name: …}}).
    named: a second section, with more of them by the user's own names; where the first selects one.
    default: the component selected where nobody names one.
    shared: "module:attribute" of a frozen dataclass with the options that every component has besides its own, where
        the section holds several by component name. A component's own option of the same name comes first.
    """

    name: str
    singular: str
    summary: str
    spec: type[Spec] = Spec
    contract: str = ""
    section: str = ""
    selects: Literal["one", "weighted", "several", "named"] = "one"
    named: str = ""
    default: str = ""
    shared: str = ""

    @property
    def hook(self) -> str:
        return "tk_" + self.name.replace("-", "_")

    @property
    def sections(self) -> dict[str, str]:
        """Its config sections -> what each selects."""
        own = {self.section: str(self.selects)} if self.section else {}
        return {**own, **({self.named: "named"} if self.named else {})}


KERNEL_SECTIONS = ("model", "data", "media", "train", "eval", "plugins", "report", "output", "sampling")
"""Config sections with fields of the kernel's own (tk.config.sections.FIXED)."""

KINDS: tuple[KindSpec, ...] = (
    KindSpec(
        name="models", singular="model", spec=ModelSpec, contract="tk.contracts:ModelFamily", summary="Model families."
    ),
    KindSpec(
        name="templates",
        singular="template",
        spec=TemplateSpec,
        contract="tk.contracts:Template",
        section="template",
        default="jinja",
        summary="Chat formats: messages to token ids.",
    ),
    KindSpec(
        name="tuners",
        singular="tuner",
        spec=TunerSpec,
        contract="tk.contracts:Tuner",
        section="tuner",
        default="lora",
        summary="What of a model is trained.",
    ),
    KindSpec(
        name="losses",
        singular="loss",
        spec=LossSpec,
        contract="tk.contracts:Loss",
        section="losses",
        selects="weighted",
        summary="One value a row, differentiable.",
    ),
    KindSpec(
        name="rewards",
        singular="reward",
        spec=RewardSpec,
        contract="tk.contracts:Reward",
        section="rewards",
        selects="weighted",
        shared="tk.config.sections:RewardShare",
        summary="Scores of completions.",
    ),
    KindSpec(
        name="engines",
        singular="engine",
        spec=EngineSpec,
        contract="tk.contracts:Engine",
        section="engine",
        named="engines",
        default="transformers",
        summary="What generates text.",
    ),
    KindSpec(
        name="methods",
        singular="method",
        spec=MethodSpec,
        contract="tk.contracts:Method",
        section="method",
        default="sft",
        summary="Training methods.",
    ),
    KindSpec(
        name="trainers",
        singular="trainer",
        spec=TrainerSpec,
        contract="tk.contracts:Trainer",
        section="trainer",
        default="torch",
        summary="Training loops.",
    ),
    KindSpec(
        name="strategies",
        singular="strategy",
        spec=StrategySpec,
        contract="tk.contracts:Strategy",
        section="strategy",
        default="ddp",
        summary="How a model is spread over processes.",
    ),
    KindSpec(
        name="datasets",
        singular="dataset",
        spec=DatasetSpec,
        contract="tk.contracts:Dataset",
        summary="Named data sets and readers of files.",
    ),
    KindSpec(
        name="formats",
        singular="format",
        spec=FormatSpec,
        contract="tk.contracts:Format",
        summary="Shapes of data rows.",
    ),
    KindSpec(
        name="optimizers",
        singular="optimizer",
        spec=OptimizerSpec,
        contract="tk.contracts:OptimizerFactory",
        section="optim",
        default="adamw",
        summary="Optimizers.",
    ),
    KindSpec(
        name="schedulers",
        singular="scheduler",
        spec=SchedulerSpec,
        contract="tk.contracts:Schedule",
        section="scheduler",
        default="cosine",
        summary="Learning-rate schedules.",
    ),
    KindSpec(
        name="callbacks",
        singular="callback",
        spec=CallbackSpec,
        contract="tk.contracts:Callback",
        section="callbacks",
        selects="several",
        summary="Watch a run; ask for saves, stops, other learning rates.",
    ),
    KindSpec(
        name="metrics",
        singular="metric",
        spec=MetricSpec,
        contract="tk.contracts:Metric",
        summary="Evaluation metrics over whole sets.",
    ),
    KindSpec(
        name="trackers",
        singular="tracker",
        spec=TrackerSpec,
        contract="tk.contracts:Tracker",
        section="trackers",
        selects="several",
        summary="Where a run's figures are sent.",
    ),
    KindSpec(
        name="hubs", singular="hub", spec=HubSpec, contract="tk.contracts:Hub", summary="Where checkpoints come from."
    ),
    KindSpec(
        name="exporters",
        singular="exporter",
        spec=ExporterSpec,
        contract="tk.contracts:Exporter",
        summary="Forms that a trained model is written in.",
    ),
    KindSpec(name="evaluators", singular="evaluator", spec=EvaluatorSpec, summary="Benchmark harnesses."),
    KindSpec(
        name="launchers",
        singular="launcher",
        spec=LauncherSpec,
        contract="tk.contracts:Launcher",
        section="launcher",
        default="local",
        summary="How a run's processes are started.",
    ),
    KindSpec(
        name="servers",
        singular="server",
        spec=ServerSpec,
        contract="tk.contracts:Server",
        section="server",
        default="openai",
        summary="How a model is offered to clients.",
    ),
    KindSpec(
        name="dialects",
        singular="dialect",
        spec=DialectSpec,
        contract="tk.contracts:Dialect",
        summary="Local files that are written for other frameworks.",
    ),
    KindSpec(name="commands", singular="command", spec=CommandSpec, summary="Further commands of tk."),
)
"""The kernel's own kinds. `tk_kinds` adds others, which are treated alike."""
