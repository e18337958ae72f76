"""The packages of the repository: one version, names that follow from their folders, and a metapackage of them all."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tk import __version__

ROOT = Path(__file__).parent.parent
PROJECTS = {
    path.parent: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in [ROOT / "core/pyproject.toml", ROOT / "all/pyproject.toml", *ROOT.glob("plugins/*/*/pyproject.toml")]
}
PLUGINS = [folder for folder in PROJECTS if folder.parent.parent.name == "plugins"]
TESTS_ONLY = {"tk-plugin-conformance"}


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_versions_move_in_lockstep(folder):
    assert PROJECTS[folder]["project"]["version"] == __version__


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugins_names_follow_from_its_folder(folder):
    name = folder.name
    assert PROJECTS[folder]["project"]["name"] == f"tk-plugin-{name}"
    assert (folder / "src" / f"tk_{name.replace('-', '_')}" / "__init__.py").is_file()
    assert (folder / "README.md").is_file()
    entry = PROJECTS[folder]["project"].get("entry-points", {}).get("tk", {})
    is_library = folder.parent.name == "common"
    assert entry == ({} if is_library else {name: f"tk_{name.replace('-', '_')}.plugin"})


def test_the_metapackage_depends_on_everything_in_this_version():
    names = {project["project"]["name"] for project in PROJECTS.values()} - TESTS_ONLY - {"tk-all"}
    assert set(PROJECTS[ROOT / "all"]["project"]["dependencies"]) == {f"{name}=={__version__}" for name in names}
