"""Fixtures of the kernel's tests: distributions as pip would install them, on a path of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

Install = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, as site-packages is; its modules are forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Install a distribution with one module: `install("tk-plugin-x", source)`."""

    def write(distribution: str, source: str, *, version: str = "1.0", entry: str = "", module: str = "") -> Path:
        name = module or distribution.replace("-", "_")
        path = site / f"{name}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[tk]\n{distribution} = {entry or name}\n")
        return path

    return write


@pytest.fixture
def found(site: Path) -> Callable[[], list[EntryPoint]]:
    """Entry points of what `install` wrote, and of nothing else on this machine."""

    def entries() -> list[EntryPoint]:
        importlib.invalidate_caches()
        return [e for d in distributions(path=[str(site)]) for e in d.entry_points if e.group == "tk"]

    return entries


WORDS = """
    from dataclasses import dataclass
    from typing import Annotated
    from tk import *
    from tk import doc, hookimpl

    @dataclass(frozen=True)
    class Options:
        \"\"\"Adapters.\"\"\"
        rank: Annotated[int, doc("Rank of the matrices.", gt=0)] = 8
        rslora: Annotated[bool, doc("Scale by the root.")] = False

    @hookimpl
    def tk_kinds():
        yield KindSpec(name="moods", singular="mood", summary="Moods of a run.")

    @hookimpl
    def tk_moods():
        yield Spec(name="glad", target="x:y", summary="A glad one.")

    @hookimpl
    def tk_commands():
        yield CommandSpec(name="hello", target="tk_plugin_words:hello", summary="Says hello.")

    @hookimpl
    def tk_tuners():
        yield TunerSpec(name="lora", target="tk_plugin_words:Options", config=Options, summary="Low rank.")

    def hello(name: str = "you"):
        print("hello", name)
"""


@pytest.fixture
def tk(install, site, tmp_path: Path):
    """Run `tk` in a process of its own, with one test plugin and no other."""
    install("tk-plugin-words", WORDS)

    def run(*args: str, env: dict[str, str] | None = None, modules: bool = False) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.argv[0]='tk'\nfrom tk.cli import main\ntry:\n    main()\nfinally:\n"
        code += "    print('MODULES', *sorted(sys.modules), file=sys.stderr)" if modules else "    pass"
        path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        environ = {**os.environ, "PYTHONPATH": path, "TK_PLUGINS": "tk-plugin-words", **(env or {})}
        return subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=120
        )

    return run
