"""Fixtures of the kernel's tests: distributions as pip would install them, on a path of their own."""

from __future__ import annotations

import importlib
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
