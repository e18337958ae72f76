"""`tk plugins new`: a package of every kind that compiles, is clean, loads, and passes its own tests."""

import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Protocol

import pytest

from tk import plugins
from tk.errors import UsageError
from tk.plugins import Selection
from tk.scaffold import write
from tk.scaffold.write import check_name, module_of
from tk.specs import KINDS, KindSpec, Spec

KIND = {kind.name: kind for kind in KINDS}
NEEDS = {
    "engines": ("torch", "transformers", "tk_auto", "tk_conformance"),
    "exporters": ("torch", "transformers", "tk_auto", "tk_conformance"),
    "losses": ("torch",),
    "methods": ("torch", "tk_tensor"),
    "models": ("torch", "transformers", "tk_auto", "tk_conformance"),
    "optimizers": ("torch",),
    "servers": ("torch", "transformers", "tk_auto", "tk_conformance", "tk_transformers"),
    "strategies": ("torch", "tk_parallel"),
    "templates": ("transformers",),
    "trainers": ("torch", "tk_torch"),
    "tuners": ("torch", "transformers", "tk_auto", "tk_conformance"),
}
"""What a package's own tests import beside the kernel."""


def run_tests(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "TK_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.parametrize("kind", sorted(KIND))
def test_a_package_of_every_kind_compiles_and_loads(tmp_path, monkeypatch, kind):
    name = f"sample-{KIND[kind].singular}"
    folder = tmp_path / name
    written = write(KIND[kind], name, folder)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == written
    for path in written:
        assert not re.search(r"\$[a-z{]", path.read_text()), path
        if path.suffix == ".py":
            py_compile.compile(str(path), doraise=True)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"tk-plugin-{name}"
    monkeypatch.syspath_prepend(str(folder / "src"))
    ((entry, value),) = project["entry-points"]["tk"].items()
    registry = plugins.load(Selection(), found=[EntryPoint(entry, value, "tk")])
    assert [plugin.reason or plugin.status for plugin in registry.plugins] == ["ok"]
    component = registry.get(kind, name)
    assert component.spec.summary
    assert (component.config() is None) == (kind in ("models", "commands"))


@pytest.mark.parametrize("kind", sorted(KIND))
def test_a_package_of_every_kind_is_clean(tmp_path, kind):
    ruff = shutil.which("ruff", path=f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}")
    if ruff is None:
        pytest.skip("ruff is not installed")
    write(KIND[kind], "tidy", tmp_path / "tidy")
    rules = "E,F,W,I,B,UP,C4,SIM,RUF,PT,PIE,RET"
    options = ["--isolated", "--select", rules, "--ignore", "RUF001,RUF002,RUF003,E501", "--line-length", "120"]
    done = subprocess.run(
        [ruff, "check", *options, "."], cwd=tmp_path / "tidy", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in ("callbacks", "rewards") else [pytest.mark.slow]) for k in sorted(KIND)]
)
def test_a_package_of_every_kind_passes_its_own_tests(tmp_path, kind):
    missing = [module for module in NEEDS.get(kind, ()) if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    write(KIND[kind], "my-own", tmp_path / "my-own")
    done = run_tests(tmp_path / "my-own")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


class Clip(Protocol):
    """How a ratio is clipped."""

    def __call__(self, ratio: float, *, low: float) -> float:
        """The clipped $ratio."""
        ...

    async def later(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ClipSpec(Spec):
    """A clip."""


def test_a_kind_that_a_plugin_adds_gets_the_methods_of_its_contract(tmp_path, monkeypatch):
    (tmp_path / "clips_kind.py").write_text(
        "from dataclasses import dataclass\nfrom typing import Protocol\nfrom tk import KindSpec, Spec, hookimpl\n"
        "@dataclass(frozen=True, kw_only=True)\nclass ClipSpec(Spec):\n    pass\n"
        "class Clip(Protocol):\n    def __call__(self, ratio: float, *, low: float) -> float: ...\n"
        "KIND = KindSpec(name='clips', singular='clip', summary='Clips.', spec=ClipSpec, contract='clips_kind:Clip')\n"
        "@hookimpl\ndef tk_kinds():\n    yield KIND\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = importlib.import_module("clips_kind").KIND
    write(kind, "soft", tmp_path / "soft")
    text = (tmp_path / "soft" / "src" / "tk_soft" / "clip.py").read_text()
    assert "def __call__(self, ratio, *, low):" in text
    monkeypatch.syspath_prepend(str(tmp_path / "soft" / "src"))
    entries = [EntryPoint("clips", "clips_kind", "tk"), EntryPoint("soft", "tk_soft.plugin", "tk")]
    registry = plugins.load(Selection(), found=entries)
    assert registry.names("clips") == ["soft"]
    assert registry.get("clips", "soft").build().options.strength == 1.0


def test_stubs_say_what_is_still_to_be_written(tmp_path):
    kind = KindSpec(name="clips", singular="clip", summary="Clips.", spec=ClipSpec, contract=f"{__name__}:Clip")
    sys.modules[__name__] = sys.modules.get(__name__) or importlib.import_module(__name__)
    write(kind, "harder", tmp_path / "harder")
    text = (tmp_path / "harder" / "src" / "tk_harder" / "clip.py").read_text()
    assert '"""The clipped $ratio."""' in text
    assert "async def later(self):" in text
    assert 'raise NotImplementedError("later is still to be written")' in text


@pytest.mark.parametrize(
    ("name", "better"),
    [("My_Reward", "my-reward"), ("1st", "st"), ("a b", "a-b"), ("lengthReward", "length-reward"), ("", "my-plugin")],
)
def test_a_bad_name_is_refused_with_a_good_one(tmp_path, name, better):
    with pytest.raises(UsageError, match=f"For example '{better}'"):
        write(KIND["rewards"], name, tmp_path / "x")
    check_name(better)
    assert not list(tmp_path.iterdir())


def test_the_name_of_an_installed_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / f"{module_of('taken')}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"'tk_taken' is installed already: .* 'my-taken'"):
        write(KIND["rewards"], "taken", tmp_path / "x")


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="exists already"):
        write(KIND["rewards"], "fine", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert write(KIND["rewards"], "fine", tmp_path / "empty")


def test_the_templates_are_part_of_the_package():
    from importlib.resources import files

    home = files("tk.scaffold") / "templates"
    assert {kind.name for kind in KINDS} <= {entry.name for entry in home.iterdir()}
