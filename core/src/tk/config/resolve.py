"""Raw config + registry -> a frozen Config: components chosen, options converted and checked, defaults filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from tk.config.options import Option, accepts, options_of, type_name
from tk.config.secret import published
from tk.config.sections import (
    FIXED,
    KEPT,
    DataSection,
    EvalSection,
    MediaSection,
    ModelSection,
    OutputSection,
    PluginsSection,
    ReportSection,
    Sampling,
    TrainSection,
)
from tk.config.tree import Key, Tree, from_mapping
from tk.errors import ConfigError, UsageError, nearest
from tk.families import family_of
from tk.registry import Component, Registry
from tk.specs import KindSpec

T = TypeVar("T")
WEIGHT = Option("weight", float, float, 1.0, False, "Its share.")


@dataclass(frozen=True)
class Chosen:
    """A component that a config selects, with its options and what other sections chose for it (`Spec.uses`).

    shared: the options that every component of the kind has (`KindSpec.shared`).
    """

    component: Component
    options: Any = None
    weight: float = 1.0
    used: Mapping[str, Chosen] = field(default_factory=dict)
    shared: Any = None

    @property
    def name(self) -> str:
        return self.component.name

    def build(self, **context: Any) -> Any:
        """The component itself (Component.build)."""
        used = {keyword: chosen.build() for keyword, chosen in self.used.items()}
        return self.component.build(self.options, **used, **context)


@dataclass(frozen=True)
class Config:
    """A run's resolved config. `tree` is all of it as plain values, as saved in config.yaml.

    secrets: paths of what is set in options that hold secrets.
    """

    model: ModelSection
    data: DataSection
    media: MediaSection
    train: TrainSection
    eval: EvalSection
    plugins: PluginsSection
    report: ReportSection
    output: OutputSection
    sampling: Sampling
    family: Chosen | None
    chosen: Mapping[str, Chosen]
    groups: Mapping[str, Mapping[str, Chosen]]
    tree: Mapping[str, Any] = field(repr=False)
    origins: Mapping[Key, str] = field(repr=False)
    secrets: frozenset[Key] = frozenset()

    @property
    def published(self) -> dict[str, Any]:
        """The tree as others may see it, without what is secret."""
        return published(self.tree, self.secrets)


@dataclass(frozen=True)
class Section:
    """A section that holds components of a kind. selects: as KindSpec.selects."""

    name: str
    kind: KindSpec
    selects: str


def sections_of(registry: Registry) -> dict[str, Section | None]:
    """Every section: the kernel's own (None) and those of kinds."""
    kinds = {n: Section(n, kind, selects) for kind in registry.kinds.values() for n, selects in kind.sections.items()}
    return {**dict.fromkeys(FIXED), **kinds}


def chosen_kinds(registry: Registry) -> dict[str, str]:
    """Section of each kind -> what it selects (KindSpec.selects)."""
    return {name: section.selects for name, section in sections_of(registry).items() if section}


def added_options(kind: KindSpec) -> tuple[Option, ...]:
    """What components of a kind have besides their own options: a weight, and what the kind shares."""
    weight = (WEIGHT,) if kind.selects == "weighted" else ()
    of_kind = shared_class(kind)
    return weight + (options_of(of_kind) if of_kind else ())


def shared_class(kind: KindSpec) -> type | None:
    """The class of `KindSpec.shared`."""
    module, _, name = kind.shared.partition(":")
    found: type | None = getattr(import_module(module), name) if module else None
    return found


def resolve(registry: Registry, layers: Sequence[Tree]) -> Config:
    """Merge the layers (later ones win) and resolve them. Raises ConfigError with path, place and mend."""
    return Resolver(registry, layers).config()


class Reader:
    """Raw values as the types that options ask for. secrets: paths of those that were set and are secret."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.secrets: set[Key] = set()

    def error(self, path: Key, problem: str) -> ConfigError:
        origin = self._tree.origin(path)
        name = ".".join(path)
        return ConfigError(
            f"{name}: {problem}" + (f" (set by {origin})" if origin and origin.lstrip("-") != name else "")
        )

    def made(self, path: Key, cls: type, values: dict[str, Any]) -> Any:
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise self.error(path, str(error)) from error

    def values(self, path: Key, node: Mapping[str, Any], options: Sequence[Option]) -> dict[str, Any]:
        """Every option's value: converted where it is set, else its default. Unknown keys are errors."""
        known = {option.name: option for option in options}
        for key in node:
            if key not in known:
                guess = nearest(key.replace("-", "_"), known)
                raise self.error((*path, key), f"there is no such option.{guess or self._list(known)}")
        found: dict[str, Any] = {}
        for name, option in known.items():
            if node.get(name) is not None:
                found[name] = self._convert((*path, name), option.annotated, node[name])
                if option.secret:
                    self.secrets.add((*path, name))
            elif name in node and accepts(option.type, type(None)):
                found[name] = None
            elif option.required:
                raise self.error((*path, name), f"it must be given: {option.text}")
            else:
                found[name] = option.default
        return found

    @staticmethod
    def _list(known: Iterable[str]) -> str:
        names = sorted(known)
        return f" Options here: {', '.join(names)}." if names else " It has no options."

    def _convert(self, path: Key, kind: Any, value: Any) -> Any:
        """A raw value as the type that its option asks for; nested dataclasses are walked key by key."""
        plain = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
        if isinstance(value, str):
            try:
                value = parse_text(value, plain)
            except ValueError as error:
                raise self.error(path, f"{error}.") from error
        if dataclasses.is_dataclass(plain) and isinstance(plain, type) and isinstance(value, Mapping):
            return self.made(path, plain, self.values(path, value, options_of(plain)))
        inner = get_args(plain)[-1] if get_origin(plain) is dict else None
        if inner is not None and dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
            return {key: self._convert((*path, key), inner, item) for key, item in value.items()}
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError as error:
            problem = str(error).split(" - at ")[0].replace("`", "")
            raise self.error(path, f"{problem}: {value!r} is not {type_name(kind)}.") from None


class Resolver:
    """One resolution; also what help asks for the options of the components that are chosen so far."""

    def __init__(self, registry: Registry, layers: Sequence[Tree]) -> None:
        self.registry = registry
        self.sections = sections_of(registry)
        self.tree = Tree()
        self._reader = Reader(self.tree)
        kinds = chosen_kinds(registry)
        one = {"model": KEPT, **{s: () for s, selects in kinds.items() if selects == "one"}}
        several = [s for s, selects in kinds.items() if selects != "one"]
        for layer in layers:
            self.tree.merge(layer, choosing=one, several=several)
        for section in self.tree.values:
            if section not in self.sections:
                raise self.error((section,), f"there is no such section.{nearest(section, self.sections)}")
        self._apply_defaults()

    def error(self, path: Key, problem: str) -> ConfigError:
        return self._reader.error(path, problem)

    # --- which components ---

    @cached_property
    def family(self) -> Component | None:
        """The model family: as named, else found from the checkpoint; None where no checkpoint is named."""
        name, family = self.tree.get(("model", "name"), ""), self.tree.get(("model", "family"), "")
        if family:
            return self._component(self.registry.kind("models"), ("model", "family"), str(family))
        return family_of(self.registry, str(name)) if name else None

    def one(self, kind: KindSpec) -> Component | None:
        """The component of a section that holds one: as named, else the kind's default where it is installed."""
        name = self._section(kind.section).get("name")
        if name is None:
            installed = kind.default in self.registry.names(kind.name)
            return self.registry.get(kind.name, kind.default) if installed else None
        return self._component(kind, (kind.section, "name"), str(name))

    def several(self, section: Section) -> dict[str, Component]:
        """The components of a section that holds several, by the key they stand under."""
        found, kind = {}, section.kind
        for key, value in self._section(section.name).items():
            if value is None or value is False or value in ("false", "null"):  # a flag's text
                continue
            path = (section.name, key)
            if section.selects == "named":
                name = value.get("name", key) if isinstance(value, Mapping) else value
                found[key] = self._component(kind, (*path, "name"), str(name))
            else:
                found[key] = self._component(kind, path, key)
                twice = next((k for k in found if k != key and found[k] == found[key]), None)
                if twice is not None:
                    raise self.error(path, f"it is the {kind.singular} {twice} by another spelling: name it once.")
        return found

    def _section(self, section: str) -> Mapping[str, Any]:
        node = self.tree.get((section,), {})
        if not isinstance(node, Mapping):
            raise self.error((section,), f"expected a mapping, got {node!r}.")
        return node

    def _component(self, kind: KindSpec, path: Key, name: str) -> Component:
        try:
            return self.registry.get(kind.name, name)
        except UsageError as error:
            raise self.error(path, str(error)) from None

    def _apply_defaults(self) -> None:
        """What chosen components suggest, where nobody said anything; a suggestion may choose further components."""
        done: set[str] = set()
        while True:
            fresh = [c for c in self._all() if c.label not in done]
            if not fresh:
                return
            component = fresh[0]
            done.add(component.label)
            for dotted, value in component.spec.defaults.items():
                path = tuple(dotted.split("."))
                if self.tree.get(path) is None and self._known(path):
                    self.tree.set(path, value, f"default of {component.label}")

    def _all(self) -> Iterable[Component]:
        if self.family:
            yield self.family
            template = getattr(self.family.spec, "template", "")
            if template and self.tree.get(("template", "name")) is None:
                self.tree.set(("template", "name"), template, f"default of {self.family.label}")
        for section in filter(None, self.sections.values()):
            if section.selects == "one":
                component = self.one(section.kind)
                if component:
                    yield component
            else:
                yield from self.several(section).values()

    def _known(self, path: Key) -> bool:
        section = self.sections.get(path[0])
        if len(path) == 1 or (section is not None and section.selects != "one"):
            return path[0] in self.sections
        return path[1] in {option.name for option in self.section_options(path[0])} | {"name"}

    # --- options ---

    def section_options(self, section: str) -> tuple[Option, ...]:
        """Fields of a section that holds fixed fields or one component."""
        of_kind = self.sections[section]
        fixed = options_of(FIXED[section]) if section in FIXED else ()
        component = self.family if section == "model" else self.one(of_kind.kind) if of_kind else None
        config = component.config() if component else None
        return fixed + (options_of(config) if config else ())

    def config(self) -> Config:
        """The whole config, checked."""
        out: dict[str, Any] = {}
        fixed: dict[str, Any] = {}
        family: Chosen | None = None
        for section, cls in FIXED.items():
            values = self._reader.values((section,), self._section(section), self.section_options(section))
            own = {option.name for option in options_of(cls)}
            fixed[section] = self._reader.made((section,), cls, {k: v for k, v in values.items() if k in own})
            if section == "model" and self.family:
                rest = {k: v for k, v in values.items() if k not in own}
                family = Chosen(self.family, self._options((section,), self.family, rest))
            out[section] = values
        chosen: dict[str, Chosen] = {}
        groups: dict[str, Mapping[str, Chosen]] = {}
        for name, of_kind in self.sections.items():
            if of_kind is None:
                continue
            if of_kind.selects == "one":
                component = self.one(of_kind.kind)
                if component:
                    chosen[name], values = self._choose(component, (name,))
                    out[name] = {"name": component.name, **values}
            else:
                made = {key: self._choose(c, (name, key), of_kind) for key, c in self.several(of_kind).items()}
                groups[name] = {key: pair[0] for key, pair in made.items()}
                out[name] = {key: pair[1] for key, pair in made.items()}
        chosen = {section: self._given(one, chosen) for section, one in chosen.items()}
        groups = {s: {key: self._given(one, chosen) for key, one in group.items()} for s, group in groups.items()}
        tree = msgspec.to_builtins(out)
        return Config(
            **fixed,
            family=family,
            chosen=chosen,
            groups=groups,
            tree=tree,
            origins=dict(self.tree.origins),
            secrets=frozenset(self._reader.secrets),
        )

    def _given(self, one: Chosen, chosen: Mapping[str, Chosen]) -> Chosen:
        """`one` with what its spec uses of other sections. Raises ConfigError where nothing is chosen there."""
        missing = [section for section in one.component.spec.uses.values() if section not in chosen]
        if missing:
            raise self.error((missing[0],), f"{one.component.label} needs what is chosen here, and nothing is.")
        return replace(one, used={keyword: chosen[s] for keyword, s in one.component.spec.uses.items()})

    def _choose(self, component: Component, path: Key, group: Section | None = None) -> tuple[Chosen, dict[str, Any]]:
        node = self.tree.get(path, {})
        weighted = group is not None and group.selects == "weighted"
        if weighted and _is_number(node):
            node = {"weight": node}
        named = group is not None and group.selects == "named"
        if group is not None and (node in (True, "true") or (named and isinstance(node, str))):
            node = {}
        if not isinstance(node, Mapping):
            raise self.error(path, f"expected a mapping of options{' or a weight' if weighted else ''}, got {node!r}.")
        config = component.config()
        options = options_of(config) if config else ()
        extra = tuple(o for o in added_options(component.kind) if o.name not in {option.name for option in options})
        values = self._reader.values(path, {k: v for k, v in node.items() if k != "name"}, options + extra)
        added = {option.name: values.pop(option.name) for option in extra}
        of_kind = shared_class(component.kind)
        shared = of_kind(**{n: v for n, v in added.items() if n != WEIGHT.name}) if of_kind else None
        chosen = Chosen(component, self._options(path, component, values), added.get("weight", 1.0), shared=shared)
        return chosen, {**({"name": component.name} if named else {}), **added, **values}

    def _options(self, path: Key, component: Component, values: dict[str, Any]) -> Any:
        config = component.config()
        return self._reader.made(path, config, values) if config else None


def changed(section: str, options: T, values: Mapping[str, Any]) -> T:
    """A section's options with other values, from Python: read as a config's, but that a text is one item of a list.

    Raises ConfigError.
    """
    cls: type = type(options)
    raw = from_mapping({section: values}, "")
    known = {option.name: option for option in options_of(cls)}
    node = dict(raw.get((section,)))
    for name, value in node.items():
        if name in known and isinstance(value, str) and accepts(known[name].type, list):
            node[name] = value if accepts(known[name].type, str) else [value]
    reader = Reader(raw)
    read = reader.values((section,), {**msgspec.to_builtins(options), **node}, tuple(known.values()))
    made: T = reader.made((section,), cls, read)
    return made


def parse_text(text: str, kind: Any) -> Any:
    """A flag's or variable's text where a list or mapping is asked for: YAML in brackets, or words with commas.

    Raises ValueError for what is in brackets and no YAML.
    """
    takes_list, takes_dict, takes_text = (accepts(kind, plain) for plain in (list, dict, str))
    if (takes_list and text.startswith("[")) or (takes_dict and text.startswith("{")):
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        from tk.config.tree import plain

        try:
            return plain(YAML(typ="safe", pure=True).load(text))
        except YAMLError as error:
            raise ValueError(f"{text!r} is not valid YAML") from error
    if takes_list and "," in text:
        return [word.strip() for word in text.split(",") if word.strip()]
    if takes_list and not takes_text:
        return [text.strip() or text] if text else []  # a line break alone is a word too
    return text


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool)
