"""Config + registry -> a frozen Plan: what would run, and whether the parts fit together. Free of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tk.capabilities import CAPABILITIES
from tk.config.resolve import Chosen, Config
from tk.errors import UsageError
from tk.registry import Registry

if TYPE_CHECKING:
    from tk.contracts.methods import Method


@dataclass(frozen=True)
class Plan:
    """Everything a trainer needs to know, before anything is loaded."""

    config: Config
    registry: Registry
    family: Chosen

    @property
    def tree(self) -> Mapping[str, Any]:
        """The resolved config as plain values, as saved in config.yaml."""
        return self.config.tree

    @property
    def published(self) -> Mapping[str, Any]:
        """The same as others may see it, without what is secret: for trackers, and what is kept with the results."""
        return self.config.published

    def one(self, section: str) -> Chosen:
        """The component of a section that holds one (tuner, method, template, optim …)."""
        if section in self.config.chosen:
            return self.config.chosen[section]
        for kind in self.registry.kinds.values():
            if kind.section == section and kind.default:
                return Chosen(self.registry.get(kind.name, kind.default))
        raise UsageError(f"{section}: no component is chosen: --{section} NAME.")

    def many(self, section: str) -> Mapping[str, Chosen]:
        """The components of a section that holds several (losses, rewards, callbacks, trackers, engines)."""
        return self.config.groups.get(section, {})

    def method(self) -> Method:
        """The method with its losses."""
        losses = {name: (chosen.weight, chosen.build()) for name, chosen in self.many("losses").items()}
        built: Method = self.one("method").build(losses=losses)
        return built

    def parts(self) -> Iterator[tuple[str, Chosen]]:
        """Every chosen component with its config path."""
        yield "model", self.family
        yield from self.config.chosen.items()
        for section, group in self.config.groups.items():
            for key, chosen in group.items():
                yield f"{section}.{key}", chosen

    def require(self, *, but: Collection[str] = ()) -> None:
        """Raises TkError where a part needs something that is not here. `but`: paths that are not asked about."""
        for path, chosen in self.parts():
            if path not in but:
                chosen.component.require(path, chosen.options)

    def described(self) -> list[dict[str, str]]:
        """Kind, name, distribution and version of every part, for plans and run.json."""
        return [
            {
                "part": path,
                "kind": chosen.component.kind.name,
                "name": chosen.name,
                "distribution": chosen.component.distribution,
                "version": chosen.component.version,
            }
            for path, chosen in self.parts()
        ]


def compose(config: Config, registry: Registry) -> Plan:
    """A plan whose parts fit together. Raises UsageError naming the part that does not fit, and the mend."""
    if config.family is None:
        raise UsageError("model: no checkpoint is named: --model NAME (see `tk models list`).")
    plan = Plan(config, registry, config.family)
    _check_losses(plan)
    _check_capabilities(plan)
    return plan


def _check_losses(plan: Plan) -> None:
    method = plan.config.chosen.get("method")
    for name, chosen in plan.many("losses").items():
        written_for = getattr(chosen.component.spec, "methods", ())
        if method and written_for and method.name not in written_for:
            raise UsageError(
                f"losses.{name}: this loss is for the method {' or '.join(written_for)}, not {method.name}."
            )


def _check_capabilities(plan: Plan) -> None:
    """What the config wishes and parts require must be supported by each part whose kind has a say in it."""
    wishes = [(wish, setting) for wish, setting in _wished(plan.config)]
    wishes += [(word, path) for path, chosen in plan.parts() for word in chosen.component.spec.requires]
    for word, asked_by in wishes:
        known = CAPABILITIES.get(word)
        deciders = known.kinds if known else _kinds_with(word, plan.registry)
        for path, chosen in plan.parts():
            component = chosen.component
            if path.partition(".")[0] == component.kind.named:  # a further one, with a use of its own
                continue
            if component.kind.name in deciders and word not in component.spec.supports:
                raise UsageError(
                    f"{asked_by} needs {word!r}, which {path} ({component.name} of {component.distribution}) does not "
                    "support" + (f": {known.text}" if known else ".")
                )


def _kinds_with(word: str, registry: Registry) -> set[str]:
    """Kinds that have a say in a word of a package's own: those in which a component supports it."""
    return {kind for kind, found in registry.components.items() if any(word in c.spec.supports for c in found)}


def _wished(config: Config) -> Iterator[tuple[str, str]]:
    if config.data.packing:
        yield "packing", "data.packing"
    if config.data.padding_side == "left":
        yield "padding-left", "data.padding_side"
    if config.train.neftune_alpha:
        yield "embedding-noise", "train.neftune_alpha"
    if config.train.compile:
        yield "compile", "train.compile"
    if config.train.activation_offload:
        yield "activation-offload", "train.activation_offload"
    if config.train.gradient_checkpointing:
        yield "gradient-checkpointing", "train.gradient_checkpointing"
    for word, name in config.sampling.needs.items():
        yield word, f"sampling.{name}"
