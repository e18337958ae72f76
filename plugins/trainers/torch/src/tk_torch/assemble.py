"""From a plan to the parts of a run: models, template, method and data, ready to be wrapped and trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tk.compose import Plan
from tk.contracts import Layout, LoadedModel, Method, ParamGroup, Role, Template, TrainPlan, Tuner, World
from tk.errors import TkError, UsageError, nearest
from tk.families import family_of
from tk.scoring import Scoring, judges, scorers
from tk_data.layout import layout_for
from tk_data.loader import Loader
from tk_data.prepare import Prepared, prepare
from tk_tensor.given import Collate, with_given
from tk_tensor.packing import probe_packing, probe_shared_prefix
from tk_tensor.scored import ScoredModel, build_scored
from tk_tensor.surroundings import EmbeddingNoise, Offload, Surrounding
from tk_torch.precision import computing, keep_updates, loaded_in
from tk_torch.settings import Configured
from tk_torch.start import Start


@dataclass(frozen=True)
class Parts:
    """The parts of a run.

    collate: the method's, with what precomputed roles say of the examples.
    models, tuners: by the role that owns the module; tuners of trained roles only. notes: what a user should know.
    start: what the first trained role began with, where it was not its checkpoint.
    """

    method: Method
    collate: Collate
    roles: Sequence[Role]
    models: dict[str, LoadedModel]
    tuners: Mapping[str, Tuner]
    template: Template
    data: Prepared
    layout: Layout
    loader: Loader
    scored: ScoredModel
    scoring: Scoring
    notes: Sequence[str] = ()
    start: Start | None = None

    @property
    def first(self) -> str:
        """The role whose model is what the run is about: the first trained one."""
        return next(iter(self.tuners))

    @property
    def policy(self) -> LoadedModel:
        """The model of that role."""
        return self.models[self.first]

    def parameter_groups(self) -> list[ParamGroup]:
        """Trained parameters of all roles with the tuners' and the roles' factors on the learning rate."""
        scales = {role.name: role.lr_scale for role in self.roles}
        groups = [
            replace(group, lr_scale=group.lr_scale * scales[name], name=f"{name}/{group.name}")
            for name, tuner in self.tuners.items()
            for group in tuner.parameter_groups(self.models[name].module)
        ]
        for name, head in self.scored.heads_by_role.items():
            groups.append(ParamGroup(list(head.parameters()), scales[name], decay=False, name=f"{name}/head"))
        return groups

    def training_mode(self, module: nn.Module) -> None:
        """Dropout on in what is trained, off in models that only take part."""
        module.train()
        for name, model in self.models.items():
            if name not in self.tuners:
                model.module.eval()


def assemble(plan: Plan, world: World, *, device: str, start: Start | None = None, precomputed: bool = False) -> Parts:
    """Load models, put tuners on, prepare the data. device "meta": shapes only, no weights.

    start: weights that the first trained role begins with. precomputed: what precomputed roles say is known already, so
    that they need no model.
    Everything random is drawn from torch's stream as it stands, which must be the same on every rank.
    Raises TkError and UsageError with the mend.
    """
    method = plan.method()
    if hasattr(method, "check"):
        method.check(Configured(plan))
    around = surroundings(plan, world.device)
    rewards = scorers(plan)
    taking_part = [role for role in method.roles() if not (precomputed and role.precomputed)]
    if device == "cpu" != world.device and "flash" in plan.config.model.attention:
        raise UsageError(
            f"strategy {plan.one('strategy').name}: the model is looked at on the CPU before it is sharded, where "
            f"{plan.config.model.attention} does not run: use --model.attention sdpa."
        )
    models, tuners = _models(plan, taking_part, device, loaded_in(plan, world.device), start)
    if not tuners:
        raise UsageError(f"method {plan.one('method').name}: none of its roles is trained.")
    roles = _untuned(taking_part, models, tuners, start)
    policy = models[next(iter(tuners))]
    with computing(plan, world.device):
        _check_packing(plan, models)
    notes: list[str] = []
    template: Template = plan.one("template").build(tokenizer=policy.tokenizer, media=policy.media)
    data = prepare(plan, template, method, max_length=policy.max_length)
    if hasattr(method, "examine"):
        notes += method.examine(data.train)
    config = plan.config
    with computing(plan, world.device):
        shared_prefix = _shares_prefixes(plan, models, notes)
    layout = layout_for(
        config.data,
        policy.tokenizer,
        shared_prefix=shared_prefix,
        media=policy.media,
        touch=data.train.media_types | data.eval.media_types,
    )
    collate = with_given(method.collate)
    loader = Loader(
        data.train,
        collate,
        layout,
        batch_size=config.train.batch_size,
        micro_batch_size=config.train.micro_batch_size,
        world=world,
        seed=config.train.seed,
        shuffle=config.data.shuffle,
        epochs=config.train.epochs,
        steps=config.train.steps,
        max_length=data.limit.max_length,
        workers=config.data.workers,
    )
    with computing(plan, world.device):
        scored = build_scored(models, roles, tuners[next(iter(tuners))], surroundings=around)
    further = judges(plan, Path(config.output.dir) / "engine") if rewards and device != "meta" else None
    scoring = Scoring(rewards, data.columns, further)
    return Parts(method, collate, roles, models, tuners, template, data, layout, loader, scored, scoring, notes, start)


def surroundings(plan: Plan, device: str) -> list[Surrounding]:
    """What the run's differentiated forwards run within. Raises UsageError for what has no use on the device."""
    train = plan.config.train
    if train.activation_offload and device == "cpu":
        raise UsageError(
            "train.activation_offload: this run computes on the CPU, in whose memory activations are anyway: leave it out."
        )
    found: list[Surrounding] = [EmbeddingNoise(train.neftune_alpha)] if train.neftune_alpha else []
    return [*found, Offload()] if train.activation_offload else found


def load(plan: Plan, role: Role, device: str, dtype: str) -> LoadedModel:
    """The model of a role that has a module of its own, as its checkpoint is."""
    settings = plan.config.model
    family = family_of(plan.registry, role.checkpoint).build() if role.checkpoint else plan.family.build()
    path = family.resolve(role.checkpoint or settings.name, None if role.checkpoint else settings.revision)
    model: LoadedModel = family.load(
        path,
        device=device,
        dtype=dtype,
        head=role.head,
        attention=settings.attention,
        trust_remote_code=settings.trust_remote_code,
        media=plan.config.media,
    )
    return model


def described(plan: Plan, parts: Parts, world: World, steps: int) -> TrainPlan:
    """The run in numbers."""
    trained = parts.data.report.of("train")
    parameters = list(parts.scored.parameters())
    return TrainPlan(
        rows=trained.read,
        examples=trained.examples,
        tokens=trained.tokens,
        supervised=trained.supervised,
        skipped=trained.skipped,
        steps=steps,
        batch_size=plan.config.train.batch_size,
        accumulation=parts.loader.accumulation,
        world=world.size,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        components=plan.described(),
        notes=parts.notes,
    )


def _models(
    plan: Plan, roles: Sequence[Role], device: str, dtype: str, start: Start | None
) -> tuple[dict[str, LoadedModel], dict[str, Tuner]]:
    models: dict[str, LoadedModel] = {}
    tuners: dict[str, Tuner] = {}
    for role in roles:
        if role.of:
            continue
        model = models[role.name] = load(plan, role, device, dtype)
        if role.trainable:
            tuner: Tuner = plan.one("tuner").build()
            tuner.attach(model)
            keep_updates(plan, model.module)
            if start and not tuners:
                start.load_into(role.name, model, tuner)
            tuners[role.name] = tuner
            if plan.config.train.gradient_checkpointing:
                _recompute(model, plan.config.train.checkpointed_groups)
        else:
            model.module.requires_grad_(False)
    return models, tuners


def _untuned(
    roles: Sequence[Role], models: dict[str, LoadedModel], tuners: Mapping[str, Tuner], start: Start | None
) -> list[Role]:
    """The roles, those of an untuned model as it can be had: by switching an adapter off; where there is none, as a
    frozen copy in `models`; the model itself where it is asked only before it is trained."""
    found = []
    for role in roles:
        if role.adapter_off and (start or not _has_untuned(tuners[role.of], models[role.of])):
            own = replace(role, adapter_off=False)
            if not role.precomputed:
                models[role.name] = _frozen_copy(models[role.of])
                own = replace(own, of="")
            found.append(own)
        else:
            found.append(role)
    return found


def _has_untuned(tuner: Tuner, model: LoadedModel) -> bool:
    """Whether the untuned model can be had by switching an adapter off."""
    try:
        tuner.adapter_off(model.module)
    except TkError:
        return False
    return True


def _frozen_copy(model: LoadedModel) -> LoadedModel:
    """The model as it stands now, never trained."""
    module = copy.deepcopy(model.module)
    module.requires_grad_(False)
    return replace(model, module=module)


def _recompute(model: LoadedModel, groups: Sequence[str]) -> None:
    module: Any = model.module
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise UsageError(f"train.gradient_checkpointing: {model.path} ({type(module).__name__}) has no such thing.")
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not groups:
        return
    for name in groups:
        if name not in model.groups:
            raise UsageError(
                f"train.checkpointed_groups: {model.path} has no group {name!r}.{nearest(name, model.groups)}"
            )
    prefixes = [prefix for name in groups for prefix in model.groups[name]]
    for name, part in module.named_modules():
        if getattr(part, "gradient_checkpointing", False) and not any(f".{p}." in f".{name}." for p in prefixes if p):
            part.gradient_checkpointing = False


def _shares_prefixes(plan: Plan, models: Mapping[str, LoadedModel], notes: list[str]) -> bool:
    """Whether samples that begin alike may share a row: where method and models can. Says so where a model cannot."""
    wished = plan.config.data.shared_prefix == "auto" and "shared-prefix" in plan.one("method").component.spec.supports
    if not wished or plan.config.train.neftune_alpha:  # each sample has noise of its own
        return False
    tuned = "shared-prefix" in plan.one("tuner").component.spec.supports
    unable = [m for m in models.values() if not tuned or not probe_shared_prefix(m.module, m.media)]
    for name in dict.fromkeys(type(model.module).__name__ for model in unable):
        notes.append(f"{name} cannot compute a prompt once for several answers: each has a row of its own.")
    return not unable


def _check_packing(plan: Plan, models: Mapping[str, LoadedModel]) -> None:
    """Packing is refused unless every layer of every model keeps samples apart."""
    if not plan.config.data.packing:
        return
    for model in models.values():
        if "packing" not in model.supports or not probe_packing(model.module, model.media):
            raise UsageError(
                f"data.packing: {model.path} ({type(model.module).__name__}) has layers that let samples in one row "
                "see one another; train it without packing."
            )
