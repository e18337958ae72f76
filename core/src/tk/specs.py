"""Declarative descriptions of plugins' components: what a hook returns, and all that listing one needs.

A spec never imports what it describes: `target` and `config` name things as "module:attribute", which are
imported when the component is used (`target`) or its options are shown (`config`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    extra: what to install where the component needs more than its package brings, e.g. "tk-plugin-vllm[cpu]".
    """

    name: str
    target: str | Callable[..., Any]
    config: str | type | None = None
    summary: str = ""
    aliases: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    supports: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    extra: str = ""


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


@dataclass(frozen=True, kw_only=True)
class TemplateSpec(Spec):
    """A chat format: messages -> token ids with a loss weight each."""


@dataclass(frozen=True, kw_only=True)
class TunerSpec(Spec):
    """What is trained of a model: everything, some groups, an adapter."""


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """A loss. `methods`: names of the methods it is written for (empty: any that gives it what it wants)."""

    methods: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RewardSpec(Spec):
    """A score of completions."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec(Spec):
    """Something that generates."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec(Spec):
    """A training method: the flow of data from samples to terms of an objective."""


@dataclass(frozen=True, kw_only=True)
class TrainerSpec(Spec):
    """The training loop."""


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Spec):
    """How a model is spread over processes."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A named data set, or a reader of files. `suffixes`: the file endings that a reader opens ("jsonl", "csv")."""

    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Spec):
    """An optimizer."""


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec(Spec):
    """A learning-rate schedule."""


@dataclass(frozen=True, kw_only=True)
class CallbackSpec(Spec):
    """Something that watches a run and may ask for a save or a stop, or change learning rates."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """An evaluation metric over the records of a whole set."""


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(Spec):
    """A place that a run's figures are sent to."""


@dataclass(frozen=True, kw_only=True)
class HubSpec(Spec):
    """A place that checkpoints and data sets come from."""


@dataclass(frozen=True, kw_only=True)
class ExporterSpec(Spec):
    """A form that a trained model is written in."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorSpec(Spec):
    """A benchmark harness."""


@dataclass(frozen=True, kw_only=True)
class LauncherSpec(Spec):
    """How the processes of a run are started."""


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A command of `tk`: help shows it without importing it; `target` is a Typer app or a function."""


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
    default: the component selected where nobody names one.
    """

    name: str
    singular: str
    summary: str
    spec: type[Spec] = Spec
    contract: str = ""
    section: str = ""
    selects: Literal["one", "weighted", "several", "named"] = "one"
    default: str = ""

    @property
    def hook(self) -> str:
        return "tk_" + self.name.replace("-", "_")


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
        summary="Scores of completions.",
    ),
    KindSpec(
        name="engines",
        singular="engine",
        spec=EngineSpec,
        contract="tk.contracts:Engine",
        section="engines",
        selects="named",
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
    KindSpec(name="launchers", singular="launcher", spec=LauncherSpec, summary="How a run's processes are started."),
    KindSpec(name="commands", singular="command", spec=CommandSpec, summary="Further commands of tk."),
)
"""The kernel's own kinds. `tk_kinds` adds others, which are treated alike."""
