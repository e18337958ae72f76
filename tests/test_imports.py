"""Who may import whom: the kernel's contracts (.importlinter), what packages declare, and what listing may load."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tk import plugins

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "peft", "numpy", "datasets", "pydantic", "rich", "matplotlib", "click")


@dataclass(frozen=True)
class Package:
    """A distribution of this repository: its folder, name, and the names of what it depends on."""

    folder: Path
    name: str
    dependencies: frozenset[str]
    optional: frozenset[str]

    @property
    def modules(self) -> list[str]:
        return [path.name for path in (self.folder / "src").iterdir() if (path / "__init__.py").is_file()]


def plain(requirement: str) -> str:
    """The normalised name in a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[ <>=!~;\[]", requirement)[0]).lower()


def described(folder: Path) -> Package:
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [name for extra in project.get("optional-dependencies", {}).values() for name in extra]
    return Package(
        folder,
        plain(project["name"]),
        frozenset(map(plain, project.get("dependencies", ()))),
        frozenset(map(plain, extras)),
    )


@cache
def packages() -> dict[str, Package]:
    """Every distribution of the repository by name."""
    patterns = ("core", "plugins/*/*", "examples/plugins/*")
    folders = sorted(path.parent for pattern in patterns for path in ROOT.glob(f"{pattern}/pyproject.toml"))
    found = [described(folder) for folder in folders]
    return {package.name: package for package in found}


@cache
def distributions_by_module() -> dict[str, frozenset[str]]:
    """Import package -> names of the distributions that bring it; the repository's own are read from its folders."""
    installed = {module: frozenset(map(plain, names)) for module, names in packages_distributions().items()}
    own = {module: frozenset([package.name]) for package in packages().values() for module in package.modules}
    worker = {"tk_worker": frozenset(["tk-plugin-remote"])}  # a file of its, by the name that what runs apart knows
    return installed | own | worker


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of each absolute import that runs: what stands under `if TYPE_CHECKING` does not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
        yield from imports(node)


def undeclared(package: Package, source: str, place: str) -> Iterator[str]:
    """Imports of a file that no dependency of its package brings."""
    for line, module in imports(ast.parse(source)):
        top = module.partition(".")[0]
        brought_by = distributions_by_module().get(top, frozenset([plain(top)]))
        if top in sys.stdlib_module_names or package.name in brought_by:
            continue
        # A plugin may do without what an extra brings, but not without another package of this repository.
        known = package.dependencies if brought_by & set(packages()) else package.dependencies | package.optional
        if not brought_by & known:
            yield f"{place}:{line}: {package.name} imports {top} and does not depend on {' or '.join(brought_by)}"


# --- the kernel ------------------------------------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    arguments = ["--config", str(ROOT / ".importlinter"), "--no-cache"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_kernel_keeps_its_contracts():
    done = lint_imports(ROOT / "core" / "src")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("compose.py", "import torch", "imports nothing heavy"),
        ("inference.py", "def late():\n    import pydantic", "imports nothing heavy"),
        ("errors.py", "from tk import plugins", "stand in layers"),
        ("testing/need.py", "from tk.testing import rewards", "No cycles"),
    ],
)
def test_the_contracts_notice_a_wrong_import(module, line, contract, tmp_path):
    shutil.copytree(ROOT / "core" / "src" / "tk", tmp_path / "tk", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "tk" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"{contract}.*BROKEN", done.stdout), done.stdout


def test_the_kernel_imports_no_plugin():
    own = {module for package in packages().values() for module in package.modules} - {"tk"}
    found = [
        f"{path}:{line}: {module}"
        for path in (ROOT / "core" / "src").rglob("*.py")
        for line, module in imports(ast.parse(path.read_text("utf-8")))
        if module.partition(".")[0] in own or module.startswith("tk_")
    ]
    assert not found


# --- packages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(packages()))
def test_a_package_declares_what_it_imports(name):
    package = packages()[name]
    files = sorted((package.folder / "src").rglob("*.py"))
    found = [
        line for path in files for line in undeclared(package, path.read_text("utf-8"), str(path.relative_to(ROOT)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import tk.specs, json\nfrom tk_known.part import x", 0),
        ("def late():\n    from tk_sft import method", 1),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", 0),
        ("import torch.nn", 1),
        ("from . import options", 0),
    ],
)
def test_an_undeclared_import_is_noticed(source, count):
    package = Package(ROOT, "tk-plugin-example", frozenset(["tk-kernel", "tk-known"]), frozenset(["tk-plugin-sft"]))
    assert len(list(undeclared(package, source, "example.py"))) == count


def test_the_packages_depend_on_one_another_without_cycles():
    names = set(packages())
    order = TopologicalSorter({package.name: package.dependencies & names for package in packages().values()})
    assert len(list(order.static_order())) == len(names)


# --- listing ---------------------------------------------------------------------------------------------------------

LIGHT = """
import json, sys
from importlib import import_module
for module in json.loads(sys.argv[1]):
    import_module(module)
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    if loaded:
        raise SystemExit(f"{module} imports {', '.join(loaded)}")
"""


def loaded_by(modules: list[str]) -> str:
    """What importing the modules one after the other says of the first that loads something heavy; "" for none."""
    command = [sys.executable, "-c", LIGHT, json.dumps(modules), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stderr.strip()


def test_plugin_and_options_modules_load_nothing_heavy():
    registry = plugins.load()
    components = [component for found in registry.components.values() for component in found]
    configs = {c.spec.config.partition(":")[0] for c in components if isinstance(c.spec.config, str)}
    contracts = {kind.contract.partition(":")[0] for kind in registry.kinds.values() if kind.contract}
    modules = sorted({plugin.value for plugin in registry.plugins} | configs | contracts)
    assert len(modules) > 20
    assert loaded_by(modules) == ""


def test_a_heavy_module_is_noticed():
    assert loaded_by(["json", "torch"]).startswith("torch imports torch, numpy")
