"""What `tk plugins new` writes for the kinds of this package is whole, is found, and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tk import KindSpec, plugins
from tk.plugins import Selection
from tk.scaffold import write
from tk_grpo.plugin import tk_kinds

KINDS = list(tk_kinds())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_new_part_is_written_whole_and_is_found(
    kind: KindSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"fresh-{kind.singular}"
    write(kind, name, tmp_path / name)
    assert not [path for path in tmp_path.rglob("*.py") if "NotImplementedError" in path.read_text()]
    monkeypatch.syspath_prepend(str(tmp_path / name / "src"))
    entries = [EntryPoint("grpo", "tk_grpo.plugin", "tk"), EntryPoint("new", f"tk_fresh_{kind.singular}.plugin", "tk")]
    registry = plugins.load(Selection(), found=entries)
    assert [plugin.reason or plugin.status for plugin in registry.plugins] == ["ok", "ok"]
    part = registry.get(kind.name, name).build()
    assert part.options == registry.get(kind.name, name).config()()


def test_their_own_tests_pass(tmp_path: Path) -> None:
    for kind in KINDS:
        write(kind, f"own-{kind.singular}", tmp_path / kind.name)
    sources = os.pathsep.join(str(tmp_path / kind.name / "src") for kind in KINDS)
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": sources}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(KINDS)} passed" in done.stdout
