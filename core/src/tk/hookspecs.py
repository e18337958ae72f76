"""Every hook of tk, on one page. A plugin implements the ones it needs and returns specs; nothing else is asked of it.

    from tk import RewardSpec, hookimpl

    @hookimpl
    def tk_rewards():
        yield RewardSpec(name="length", target="my_package.length:Length", summary="Favours short answers.")

Every hook takes no argument and returns an iterable of specs (tk.specs). The order in which plugins are called decides
nothing. A kind that a plugin adds with `tk_kinds` gets the hook `tk_<kind>` in the same form.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from tk import specs

hookspec = pluggy.HookspecMarker("tk")
hookimpl = pluggy.HookimplMarker("tk")
"""Marks a function of a plugin module as the implementation of the hook of the same name."""


@hookspec
def tk_kinds() -> Iterable[specs.KindSpec]:  # type: ignore[empty-body]
    """Further kinds of components that this package owns, each with its hook, registry and commands."""


@hookspec
def tk_models() -> Iterable[specs.ModelSpec]:  # type: ignore[empty-body]
    """Model families: how a checkpoint is recognised, loaded and saved."""


@hookspec
def tk_templates() -> Iterable[specs.TemplateSpec]:  # type: ignore[empty-body]
    """Chat formats: how messages become token ids, and which of them are trained."""


@hookspec
def tk_tuners() -> Iterable[specs.TunerSpec]:  # type: ignore[empty-body]
    """Tuners: what of a model is trained, and how that is saved, loaded and merged."""


@hookspec
def tk_losses() -> Iterable[specs.LossSpec]:  # type: ignore[empty-body]
    """Losses: one value a row from the statistics of a forward pass."""


@hookspec
def tk_rewards() -> Iterable[specs.RewardSpec]:  # type: ignore[empty-body]
    """Rewards: one float (or None: not applicable) a completion."""


@hookspec
def tk_engines() -> Iterable[specs.EngineSpec]:  # type: ignore[empty-body]
    """Engines: requests to generated tokens."""


@hookspec
def tk_methods() -> Iterable[specs.MethodSpec]:  # type: ignore[empty-body]
    """Training methods: samples to examples to batches to terms of an objective."""


@hookspec
def tk_trainers() -> Iterable[specs.TrainerSpec]:  # type: ignore[empty-body]
    """Trainers: the loop that runs a method's passes and updates the weights."""


@hookspec
def tk_strategies() -> Iterable[specs.StrategySpec]:  # type: ignore[empty-body]
    """Strategies: how a model, its gradients and its optimizer are spread over processes."""


@hookspec
def tk_datasets() -> Iterable[specs.DatasetSpec]:  # type: ignore[empty-body]
    """Data sets by name, and readers of file types."""


@hookspec
def tk_formats() -> Iterable[specs.FormatSpec]:  # type: ignore[empty-body]
    """Formats: the shapes of rows, and what they mean."""


@hookspec
def tk_optimizers() -> Iterable[specs.OptimizerSpec]:  # type: ignore[empty-body]
    """Optimizers: parameter groups to a torch optimizer."""


@hookspec
def tk_schedulers() -> Iterable[specs.SchedulerSpec]:  # type: ignore[empty-body]
    """Learning-rate schedules: step to factor."""


@hookspec
def tk_callbacks() -> Iterable[specs.CallbackSpec]:  # type: ignore[empty-body]
    """Callbacks: see steps, evaluations and checkpoints; may ask for a save, a stop or another learning rate."""


@hookspec
def tk_metrics() -> Iterable[specs.MetricSpec]:  # type: ignore[empty-body]
    """Evaluation metrics over the records of a whole set."""


@hookspec
def tk_trackers() -> Iterable[specs.TrackerSpec]:  # type: ignore[empty-body]
    """Trackers: where a run's figures are sent."""


@hookspec
def tk_hubs() -> Iterable[specs.HubSpec]:  # type: ignore[empty-body]
    """Hubs: where checkpoints and data sets are fetched from."""


@hookspec
def tk_exporters() -> Iterable[specs.ExporterSpec]:  # type: ignore[empty-body]
    """Exporters: the forms that a trained model is written in."""


@hookspec
def tk_evaluators() -> Iterable[specs.EvaluatorSpec]:  # type: ignore[empty-body]
    """Evaluators: benchmark harnesses."""


@hookspec
def tk_launchers() -> Iterable[specs.LauncherSpec]:  # type: ignore[empty-body]
    """Launchers: how the processes of a run are started."""


@hookspec
def tk_dialects() -> Iterable[specs.DialectSpec]:  # type: ignore[empty-body]
    """Dialects: how local files that are written for another framework are read."""


@hookspec
def tk_servers() -> Iterable[specs.ServerSpec]:  # type: ignore[empty-body]
    """Servers: a model offered to clients over a network."""


@hookspec
def tk_commands() -> Iterable[specs.CommandSpec]:  # type: ignore[empty-body]
    """Further commands of `tk`."""
