"""From a plan to the parts of a run: models, template, method and data, ready to be wrapped and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tk.compose import Plan
from tk.contracts import Layout, LoadedModel, Method, ParamGroup, Role, Template, TrainPlan, Tuner, World
from tk.errors import UsageError
from tk.families import family_of
from tk_data.layout import layout_for
from tk_data.loader import Loader
from tk_data.prepare import Prepared, prepare
from tk_tensor.packing import probe_packing
from tk_tensor.scored import ScoredModel, build_scored


@dataclass(frozen=True)
class Parts:
    """The parts of a run. models, tuners: by the role that owns the module; tuners of trained roles only."""

    method: Method
    roles: Sequence[Role]
    models: Mapping[str, LoadedModel]
    tuners: Mapping[str, Tuner]
    template: Template
    data: Prepared
    layout: Layout
    loader: Loader
    scored: ScoredModel

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
        return [
            replace(group, lr_scale=group.lr_scale * scales[name], name=f"{name}/{group.name}")
            for name, tuner in self.tuners.items()
            for group in tuner.parameter_groups(self.models[name].module)
        ]

    def training_mode(self, module: nn.Module) -> None:
        """Dropout on in what is trained, off in models that only take part."""
        module.train()
        for name, model in self.models.items():
            if name not in self.tuners:
                model.module.eval()


def assemble(plan: Plan, world: World, *, device: str) -> Parts:
    """Load models, put tuners on, prepare the data. device "meta": shapes only, no weights.

    Everything random is drawn from torch's stream as it stands, which must be the same on every rank.
    Raises TkError and UsageError with the mend.
    """
    method = build_method(plan)
    roles = method.roles()
    models, tuners = _models(plan, roles, device)
    if not tuners:
        raise UsageError(f"method {plan.one('method').name}: none of its roles is trained.")
    policy = models[next(iter(tuners))]
    _check_packing(plan, models)
    template: Template = plan.one("template").build(tokenizer=policy.tokenizer, processor=policy.processor)
    data = prepare(plan, template, method, max_length=longest(policy))
    config = plan.config
    layout = layout_for(config.data, policy.tokenizer)
    loader = Loader(
        data.train,
        method.collate,
        layout,
        batch_size=config.train.batch_size,
        micro_batch_size=config.train.micro_batch_size,
        world=world,
        seed=config.train.seed,
        shuffle=config.data.shuffle,
        epochs=config.train.epochs,
        steps=config.train.steps,
        max_length=data.limit.max_length,
    )
    scored = build_scored(models, roles, tuners[next(iter(tuners))])
    return Parts(method, roles, models, tuners, template, data, layout, loader, scored)


def build_method(plan: Plan) -> Method:
    """The method with its losses."""
    losses = {name: (chosen.weight, chosen.build()) for name, chosen in plan.many("losses").items()}
    method: Method = plan.one("method").build(losses=losses)
    return method


def load(plan: Plan, role: Role, device: str) -> LoadedModel:
    """The model of a role that has a module of its own, as its checkpoint is."""
    settings = plan.config.model
    family = family_of(plan.registry, role.checkpoint).build() if role.checkpoint else plan.family.build()
    path = family.resolve(role.checkpoint or settings.name, None if role.checkpoint else settings.revision)
    model: LoadedModel = family.load(
        path,
        device=device,
        dtype=settings.dtype,
        head=role.head,
        attention=settings.attention,
        trust_remote_code=settings.trust_remote_code,
    )
    return model


def longest(model: LoadedModel) -> int | None:
    """Tokens that the model can read, where its config says so."""
    config = model.module.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if found else None


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
    )


def _models(plan: Plan, roles: Sequence[Role], device: str) -> tuple[dict[str, LoadedModel], dict[str, Tuner]]:
    models: dict[str, LoadedModel] = {}
    tuners: dict[str, Tuner] = {}
    for role in roles:
        if role.of:
            continue
        model = models[role.name] = load(plan, role, device)
        if role.trainable:
            tuner: Tuner = plan.one("tuner").build()
            tuner.attach(model)
            tuners[role.name] = tuner
            if plan.config.train.gradient_checkpointing:
                _recompute(model)
        else:
            model.module.requires_grad_(False)
    return models, tuners


def _recompute(model: LoadedModel) -> None:
    module: Any = model.module
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise UsageError(f"train.gradient_checkpointing: {model.path} ({type(module).__name__}) has no such thing.")
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _check_packing(plan: Plan, models: Mapping[str, LoadedModel]) -> None:
    """Packing is refused unless every layer of every model keeps samples apart."""
    if not plan.config.data.packing:
        return
    for model in models.values():
        if "packing" not in model.supports or not probe_packing(model.module):
            raise UsageError(
                f"data.packing: {model.path} ({type(model.module).__name__}) has layers that let samples in one row "
                "see one another; train it without packing."
            )
