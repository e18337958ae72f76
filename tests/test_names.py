"""Kernel, trainers, strategies and common libraries decide nothing by a component's name: walked on their syntax trees.

What is noticed: comparing (==, !=, in, not in, is, match) with a name, looking one up in a mapping by a constant, asking
whether a text starts or ends with one, and tables from names to something. What is not: words of a closed vocabulary (a
`Literal` of the field that is compared), and keys of records that the same module writes.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tk import entries, plugins
from tk.specs import KINDS

ROOT = Path(__file__).parents[1]
WALKED = ("core/src/tk", "plugins/trainers/*/src", "plugins/strategies/*/src", "plugins/common/*/src")
LOOKUPS = ("get", "pop", "setdefault", "startswith", "endswith", "index", "count", "removeprefix")

KIND_NAMES = frozenset(kind.name for kind in KINDS)

EXPLAINED: Mapping[tuple[str, str], str] = {
    # data.sources.*.format is the name of a format or the word `auto` (find it by its columns), which no format can
    # have as its name without being unreachable; the family `auto` is of another kind.
    ("core/src/tk/rows.py", "section.format != 'auto'"): "the word of a setting, not the family of that name",
    # A field of run.json's config, which holds a format's name under the key "format"; the reward is another thing.
    ("plugins/common/report/src/tk_report/page.py", "source.get('format')"): "a config key, not the reward",
    # What a DeepSpeed config has under its keys: the word that the framework fills in, and trackers of its own.
    (
        "plugins/strategies/deepspeed/src/tk_deepspeed/document.py",
        "value == AUTO",
    ): "a word of that file, not the family",
    # The form in which clients of every server and callers of `tk.engine` write a conversation: it is asked for as such.
    ("core/src/tk/asking.py", "plan.registry.get('formats', 'messages')"): "the one form of conversations in Python",
}
"""(file, expression) -> why the word in it is not a component's name. An entry that no longer occurs is an error."""


@cache
def repository_plugins() -> plugins.Registry:
    """What the packages of this repository register, whatever else is installed."""
    own = [d for d in distributions() if (d.name or "").startswith("tk-plugin-")]
    return plugins.load(plugins.Selection(), found=[entry for d in own for entry in entries.of(d)])


@cache
def kinds_by_name() -> Mapping[str, frozenset[str]]:
    """Every component's name and aliases, with the kinds that have one of that name."""
    found: dict[str, set[str]] = {}
    for kind, components in repository_plugins().components.items():
        for component in components:
            for name in (component.spec.name, *component.spec.aliases):
                found.setdefault(name, set()).add(kind)
    return {name: frozenset(kinds) for name, kinds in found.items()}


@dataclass
class Walk:
    """One file's decisions by name. `vocabulary`: field or parameter -> words that its annotation allows."""

    names: Mapping[str, Collection[str]]
    vocabulary: Mapping[str, Collection[str]]
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    records: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants[node.targets[0].id] = node.value
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.constants[node.target.id] = node.value
        for keys in self._written():
            if keys - set(self.names):
                self.records |= keys

    def _written(self) -> Iterator[set[str]]:
        """Keys of each mapping that the module writes: of a display, and of what is then put into a variable."""
        put: dict[str, set[str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Dict):
                yield set(words_in(node))
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                put.setdefault(ast.unparse(node.targets[0]), set()).update(words_in(node.value))
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and text_of(node.slice):
                put.setdefault(ast.unparse(node.value), set()).add(str(text_of(node.slice)))
        yield from put.values()

    def decisions(self) -> Iterator[tuple[int, str]]:
        """(line, expression) of everything that is decided by a component's name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.expr) and self.decides(node):
                yield node.lineno, ast.unparse(node)
            elif isinstance(node, ast.match_case) and any(self.named(w) for w in words_in(node.pattern)):
                yield node.pattern.lineno, f"case {ast.unparse(node.pattern)}"

    def decides(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Compare):
            return self.compares(node)
        if isinstance(node, ast.Subscript):
            word = text_of(node.slice)
            return self.named(word) and word not in self.records
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKUPS:
            # registry.get("tuners", "lora") names the component second.
            asked = node.args[:2] if node.args and text_of(node.args[0]) in KIND_NAMES else node.args[:1]
            words = {word for argument in asked for word in self.words(argument)}
            return any(self.named(word) and word not in self.records for word in words)
        return isinstance(node, ast.Dict) and self.is_table(node)

    def compares(self, node: ast.Compare) -> bool:
        operands = [node.left, *node.comparators]
        allowed = {word for operand in operands for word in self.vocabulary.get(identifier(operand), ())}
        words = {word for operand in operands for word in self.words(operand)}
        asks_for_key = isinstance(node.ops[0], (ast.In, ast.NotIn)) and text_of(node.left) in self.records
        return not asks_for_key and any(self.named(word) and word not in allowed for word in words)

    def is_table(self, node: ast.Dict) -> bool:
        """Two names of one kind as keys are a table to dispatch by."""
        keys = [word for key in node.keys if (word := text_of(key)) is not None]
        kinds = [kind for word in keys for kind in self.names.get(word, ())]
        return any(kinds.count(kind) > 1 for kind in kinds)

    def words(self, node: ast.expr) -> Iterator[str]:
        """Constant texts of an operand: itself, what a display holds, or what a name of the module stands for."""
        if isinstance(node, ast.Name) and isinstance(self.constants.get(node.id), (ast.Constant, *DISPLAYS, ast.Call)):
            yield from words_in(self.constants[node.id])
        elif isinstance(node, (ast.Constant, *DISPLAYS)) or is_collection_call(node):
            yield from words_in(node)

    def named(self, word: str | None) -> bool:
        return word in self.names


DISPLAYS = (ast.Tuple, ast.List, ast.Set, ast.Dict)


def is_collection_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and identifier(node.func) in ("frozenset", "set", "tuple", "list", "dict")


def words_in(node: ast.AST) -> Iterator[str]:
    """Constant texts of a display or pattern; of a mapping, its keys."""
    if isinstance(node, ast.Dict):
        yield from (word for key in node.keys if (word := text_of(key)) is not None)
        return
    if isinstance(node, ast.Call) and not is_collection_call(node):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from words_in(child)


def text_of(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def identifier(node: ast.expr) -> str:
    """The last name of `a.b.c` or `c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def vocabulary_of(trees: Collection[ast.Module]) -> dict[str, set[str]]:
    """Fields and parameters that are annotated with a Literal: their words."""
    found: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            name = identifier(node.target) if isinstance(node, ast.AnnAssign) else getattr(node, "arg", "")
            annotation = getattr(node, "annotation", None)
            for part in ast.walk(annotation) if annotation is not None else ():
                if isinstance(part, ast.Subscript) and identifier(part.value) == "Literal":
                    found.setdefault(name, set()).update(words_in(part.slice))
    return found


@cache
def sources() -> Mapping[str, ast.Module]:
    folders = [folder for pattern in WALKED for folder in ROOT.glob(pattern)]
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in files}


def decisions_of(source: str) -> list[str]:
    tree = ast.parse(source)
    return [expression for _, expression in Walk(kinds_by_name(), vocabulary_of([tree]), tree).decisions()]


def test_every_plugin_of_the_repository_is_known_here():
    declared = set()
    for path in ROOT.glob("plugins/*/*/pyproject.toml"):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        declared |= {project["name"]} if "tk" in project.get("entry-points", {}) else set()
    loaded = {plugin.distribution: plugin for plugin in repository_plugins().plugins}
    assert declared <= set(loaded), f"not installed: {sorted(declared - set(loaded))}"
    assert {name: plugin.reason for name, plugin in loaded.items() if plugin.status != "ok"} == {}


def test_nothing_is_decided_by_a_components_name():
    vocabulary = vocabulary_of(list(sources().values()))
    found = [
        f"{file}:{line}: {expression}"
        for file, tree in sources().items()
        for line, expression in Walk(kinds_by_name(), vocabulary, tree).decisions()
        if (file, expression) not in EXPLAINED
    ]
    assert not found, "\n".join(found)


def test_every_explanation_is_still_needed():
    vocabulary = vocabulary_of(list(sources().values()))
    found = {(f, e) for f, tree in sources().items() for _, e in Walk(kinds_by_name(), vocabulary, tree).decisions()}
    assert set(EXPLAINED) <= found


@pytest.mark.parametrize(
    "source",
    [
        'if name == "lora": pass',
        'if "lora" != plan.tuner.name: pass',
        'if name in ("ddp", "fsdp"): pass',
        'if name not in frozenset({"jinja"}): pass',
        'SPREAD = {"ddp", "fsdp"}\nif name in SPREAD: pass',
        'DEFAULT: str = "lora"\nif name == DEFAULT: pass',
        'match name:\n    case "sft" | "pt": pass',
        'match chosen:\n    case Chosen(name="sft"): pass',
        'rank = options["lora"]',
        'build = makers.get("lora", None)',
        'tuner = registry.get("tuners", "lora")',
        'if name.startswith("adamw"): pass',
        'makers["lora"] = make\nmaker = makers["lora"]',
        'make = {"ddp": Ddp, "fsdp": Fsdp}[name]',
        'x = 1 if section.name is "lora" else 2',
    ],
)
def test_a_decision_by_name_is_noticed(source):
    assert decisions_of(source)


@pytest.mark.parametrize(
    "source",
    [
        'default = "lora"',
        'KindSpec(name="tuners", default="lora")',
        'if section == "losses": pass',
        'class Part:\n    type: Literal["text", "image"]\ndef f(part):\n    return part.type == "text"',
        'def row(m):\n    return {"messages": m, "origin": ""}\nfirst = row(x)["messages"]',
        'print(f"install lora: {name}")',
        'def state():\n    found = {"lora": 1}\n    found["cuda"] = 2\n    return found\nx = state()["lora"]',
        'if kind == "tuner": pass',
        'registry.get("tuners", name)',
    ],
)
def test_other_words_are_not(source):
    assert not decisions_of(source)
