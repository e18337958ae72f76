"""The conformance kit finds what is wrong with a package, and says it in words."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated

import pytest

from tk.config.options import doc
from tk.registry import Component
from tk.specs import KINDS, RewardSpec, Spec
from tk.testing import check_component, check_listing_is_light, check_options
from tk.testing.contracts import missing
from tk.testing.package import Package

PLUGIN = """
from tk import RewardSpec, hookimpl
@hookimpl
def tk_rewards():
    yield RewardSpec(name="length", target="{module}_reward:Length", config="{module}_options:Options", summary="Short.")
"""
OPTIONS = """
from dataclasses import dataclass
from typing import Annotated
from tk.config.options import doc
@dataclass(frozen=True)
class Options:
    target: Annotated[int, doc("Words.", gt=0)] = 20
"""
REWARD = """
class Length:
    def __init__(self, options):
        self.options = options
    async def __call__(self, batch):
        return [-abs(len(c.text.split()) - self.options.target) / 100 for c in batch.completions]
"""


def write_package(folder: Path, module: str, plugin=PLUGIN, options=OPTIONS, reward=REWARD) -> Path:
    source = folder / "src"
    source.mkdir(parents=True)
    for name, text in (("", plugin), ("_options", options), ("_reward", reward)):
        (source / f"{module}{name}.py").write_text(text.replace("{module}", module))
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{module}-not-installed"\nversion = "1"\n[project.entry-points.tk]\nlength = "{module}"\n'
        "[tool.pytest.ini_options]\naddopts = '-p tk.testing.plugin'\n"
    )
    return folder


def run_kit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "TK_"))}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_sound_package_passes_with_a_test_for_each_thing_it_declares(tmp_path):
    done = run_kit(write_package(tmp_path, "sound_pkg"))
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    for name in ("loads", "listing is light", "reward length fits its contract", "reward length documents its options"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plugin": "import no_such_module_here"}, "it needs the package 'no_such_module_here'"),
        pytest.param(
            {"plugin": PLUGIN.replace("tk_rewards", "tk_reward")}, "tk_reward is no hook here", marks=pytest.mark.slow
        ),
        ({"plugin": "print('hello')\n" + PLUGIN}, "loads FAILED"),
        pytest.param({"plugin": "raise SystemExit(3)"}, "is broken: SystemExit: 3", marks=pytest.mark.slow),
        ({"options": OPTIONS.replace('doc("Words.", gt=0)', "None")}, "option 'target' has no text"),
        pytest.param(
            {"options": OPTIONS.replace("= 20", "= 0")},
            "the default 0 of 'target' is not valid",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"options": OPTIONS.replace("frozen=True", "frozen=False")}, "Options is not frozen", marks=pytest.mark.slow
        ),
        pytest.param(
            {"options": "import sqlite3, tomllib, numpy\n" + OPTIONS}, "imports numpy", marks=pytest.mark.slow
        ),
        ({"reward": REWARD.replace("__call__(self, batch)", "__call__(self)")}, "does not take __call__"),
        pytest.param(
            {"reward": REWARD.replace("__call__", "score")}, "it has no method __call__", marks=pytest.mark.slow
        ),
        pytest.param(
            {"reward": REWARD.replace("class Length", "class Width")}, "cannot be loaded from", marks=pytest.mark.slow
        ),
        pytest.param({"plugin": PLUGIN.replace('"Short."', '""')}, "has no summary", marks=pytest.mark.slow),
    ],
)
def test_each_fault_is_named(tmp_path, change, message):
    if "numpy" in str(change):
        pytest.importorskip("numpy")
    done = run_kit(write_package(tmp_path, "faulty_pkg", **change))
    assert done.returncode == 1, done.stdout
    assert message in done.stdout


def test_fixtures_give_the_package_s_own_registry(tmp_path):
    folder = write_package(tmp_path, "fixture_pkg")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text(
        "from tk.testing import check_reward\n"
        "def test_names(tk_registry):\n    assert tk_registry.names('rewards') == ['length']\n"
        "def test_scores(tk_component):\n    check_reward(tk_component('rewards', 'length').build())\n"
    )
    done = run_kit(folder, "tests", "-c", "pyproject.toml", "--rootdir", ".", "-o", "pythonpath=src")
    assert "6 passed" in done.stdout, done.stdout
    only = run_kit(folder, "tests/test_it.py", "-c", "pyproject.toml", "--rootdir", ".", "-o", "pythonpath=src")
    assert "2 passed" in only.stdout, only.stdout


def test_an_unknown_package_is_a_usage_error(tmp_path):
    done = run_kit(tmp_path, "-p", "tk.testing.plugin", "--tk-package", "no-such-package")
    assert done.returncode == 4
    assert "--tk-package no-such-package: neither an installed plugin nor a folder of one" in done.stderr


def test_the_kit_needs_the_kernel_and_pytest_only():
    code = (
        "import sys, tk.testing, tk.testing.plugin\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'pydantic', 'typer', 'hypothesis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def component(target, config=None, kind="rewards", spec: type[Spec] = RewardSpec) -> Component:
    found = next(k for k in KINDS if k.name == kind)
    return Component(found, spec(name="x", target=target, config=config, summary="One."), "here", "1")


def test_options_of_every_type_have_valid_defaults():
    @dataclass(frozen=True)
    class Nested:
        path: Annotated[str, doc("Where.")] = ""

    @dataclass(frozen=True)
    class Options:
        sources: Annotated[dict[str, Nested], doc("By name.")]
        nested: Annotated[Nested, doc("One.")] = Nested()
        many: Annotated[tuple[str, ...], doc("Several.")] = ("a", "b")
        maybe: Annotated[float | None, doc("Perhaps.", gt=0)] = None

    check_options(component(lambda options: None, Options))


def test_a_factory_is_accepted_and_a_module_constant_is_not():
    check_component(component(lambda options: None))
    with pytest.raises(AssertionError, match="cannot be called"):
        check_component(component("tk.specs:TK_API"))


def test_attributes_of_a_protocol_may_be_fields_or_set_by_init():
    class Wanted:
        _is_protocol = True
        unit: str

    @dataclass
    class Field:
        unit: str

    class Init:
        def __init__(self):
            self.unit = "token"

    class Nothing:
        pass

    assert missing(Field, Wanted) == missing(Init, Wanted) == []
    assert missing(Nothing, Wanted) == ["it has no attribute 'unit'"]


def test_listing_that_imports_something_heavy_is_found(tmp_path):
    (tmp_path / "heavy_pkg.py").write_text("import datasets\n" + PLUGIN.replace("{module}", "heavy_pkg"))
    (tmp_path / "datasets.py").write_text("")
    package = Package("heavy", (EntryPoint("length", "heavy_pkg", "tk"),), (str(tmp_path),))
    with pytest.raises(AssertionError, match="listing imports datasets"):
        check_listing_is_light(package)
