"""A plan's model, template and engine, ready to generate.

Every step is a call of a contract, so nothing here knows a model, an engine or torch.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tk import engines
from tk.compose import Plan
from tk.contracts import LM_HEAD, Adapters, Engine, Head, LoadedModel, Template, Tuner
from tk.errors import TkError, UsageError
from tk.files import cache_root


@dataclass
class Runtime:
    """A loaded model with its template and engine."""

    model: LoadedModel
    template: Template
    engine: Engine


def load(
    plan: Plan, run: Path | None, head: Head = LM_HEAD, *, device: str = "auto"
) -> tuple[LoadedModel, Tuner | None]:
    """The model of a plan with a head, or what `run` has trained of it with the head that it has trained.

    device: where; "meta" reads no weights, as long as nothing has been trained of them.
    """
    settings = plan.config.model
    family = plan.family.build()
    head = trained_head(plan) if run else head
    model: LoadedModel = family.load(
        family.resolve(settings.name, settings.revision),
        device="cpu" if run is not None and device == "meta" else device,
        dtype=settings.dtype,
        head=head,
        attention=settings.attention,
        trust_remote_code=settings.trust_remote_code,
        media=plan.config.media,
    )
    if run is None:
        return model, None
    final = run / "final"
    if not final.is_dir():
        raise UsageError(
            f"{run}: this run is not finished (it has no final/); go on with `tk train --run {shlex.quote(str(run))} --resume`."
        )
    tuner: Tuner = plan.one("tuner").build()
    tuner.attach(model)
    tuner.load(model, final)
    if not tuner.changes_output(model):
        raise TkError(
            f"{final}: the adapter changes nothing of what the model computes: train it (longer, or with a higher "
            "optim.lr), or use the model without --run."
        )
    return model, tuner


def trained_head(plan: Plan) -> Head:
    """What the model that a plan trains ends in."""
    return next((role.head for role in plan.method().roles() if role.trainable), LM_HEAD)


def runtime(
    plan: Plan, run: Path | None, head: Head = LM_HEAD, *, adapters: bool = False, more: bool = False
) -> Runtime:
    """Model, template and engine of a plan. Raises UsageError for a run that has trained another kind of head.

    adapters: requests may name those that the config has beside the model's own; else it may have none. more: and others may
    be loaded later.
    """
    if plan.config.model.adapters and not adapters:
        raise UsageError("model.adapters: nothing here chooses among them; what one run has trained is used by --run.")
    engine = plan.one("engine")
    supports = engine.component.spec.supports
    if head.kind != LM_HEAD.kind and "scores" not in supports:
        raise UsageError(
            f"engine {engine.name}: it generates only, and gives no scores and no vectors: use the engine transformers."
        )
    engine.component.require("engine", engine.options)
    own = "shared-module" not in supports
    if more and own:
        raise UsageError(
            f"engine {engine.name}: it has weights of its own, and is given its adapters when it begins: name them in "
            "model.adapters, or choose an engine that generates on the module in memory."
        )
    model, tuner = load(plan, run, head, device="meta" if own else "auto")
    if model.head.kind != head.kind:
        raise UsageError(
            f"{run}: this run has trained a head of the kind {model.head.kind!r}, and {head.kind!r} is needed."
        )
    if plan.config.model.adapters or more:
        _add_adapters(plan, model, tuner, own)
    template = plan.one("template").build(tokenizer=model.tokenizer, media=model.media)
    built: Engine = engine.build(model=model, folder=engine_folder(run))
    if own and tuner is not None:
        _give(plan, model, tuner, built)
    return Runtime(model, template, built)


def engine_folder(run: Path | None) -> Path:
    """Where engines keep their logs, and weights on their way."""
    return run / "engine" if run else cache_root() / "engines"


def _give(plan: Plan, model: LoadedModel, tuner: Tuner, engine: Engine) -> None:
    """Let an engine with weights of its own answer with what was trained; the module's are let go."""
    try:
        if "weight-update" not in plan.one("engine").component.spec.supports:
            raise UsageError(
                f"engine {plan.one('engine').name}: it cannot be given what a run has trained: write that as a checkpoint "
                "(`tk export`), and name it with --model."
            )
        tuner.merge(model)
        engine.update(model.module.state_dict().items(), 1)
        model.module.to("meta")
    except BaseException:
        engine.close()
        raise


def _add_adapters(plan: Plan, model: LoadedModel, tuner: Tuner | None, own: bool) -> None:
    """Load the adapters that the config names beside the model's own. Raises TkError where one does not fit.

    own: an engine with weights of its own reads them itself.
    """
    chosen = plan.one("tuner")
    for part in (chosen, plan.one("engine")):
        if "adapters" not in part.component.spec.supports:
            raise UsageError(f"model.adapters: {part.name} cannot have several adapters at hand.")
    adapters: Adapters = engines.AdapterFolders() if own else (tuner or chosen.build()).adapters(model)
    model.adapters = adapters
    for name, folder in plan.config.model.adapters.items():
        adapters.add(name, adapter_folder(Path(folder)))


def adapter_folder(folder: Path) -> Path:
    """Where the adapter is of a run, or of a folder that peft has written."""
    return folder / "final" if (folder / "config.yaml").is_file() else folder
