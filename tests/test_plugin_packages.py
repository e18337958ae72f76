"""`tk plugins install|uninstall|sync` with pip and with uv: small wheels, real environments, nothing fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from tk import __version__
from tk.installed import Installed, requirements

ROOT = Path(__file__).parents[1]
PLUGIN = """
from tk import RewardSpec, hookimpl

@hookimpl
def tk_rewards():
    yield RewardSpec(name="{name}", target="{module}:Made", summary="A test.")

class Made:
    async def __call__(self, batch):
        return []
"""


def package(folder: Path, name: str, version: str, *needs: str, source: str | None = None, entry: bool = True) -> Path:
    """The source of a small distribution with one module."""
    module = name.replace("-", "_")
    (folder / module).mkdir(parents=True)
    code = PLUGIN.format(name=name.removeprefix("tk-plugin-"), module=module) if source is None else source
    (folder / module / "__init__.py").write_text(code)
    listed = json.dumps(list(needs))
    text = (
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {listed}\n'
        f'[tool.hatch.build.targets.wheel]\npackages = ["{module}"]\n'
    )
    (folder / "pyproject.toml").write_text(
        text + (f'[project.entry-points.tk]\n{name} = "{module}"\n' if entry else "")
    )
    return folder


PACKAGES: tuple[tuple[str, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("acme-lib", "1.0", (), {"entry": False, "source": ""}),
    ("acme-lib", "2.0", (), {"entry": False, "source": ""}),
    ("tk-plugin-good", "1.0", ("tk-kernel", "acme-lib"), {}),
    ("tk-plugin-good", "2.0", ("tk-kernel", "acme-lib"), {}),
    ("tk-plugin-greedy", "1.0", ("tk-kernel", "acme-lib>=2"), {}),
    ("tk-plugin-torchy", "1.0", ("tk-kernel", "torch>=99"), {}),
    ("tk-plugin-upper", "1.0", ("tk-kernel", "tk-plugin-good"), {}),
    ("tk-plugin-broken", "1.0", ("tk-kernel",), {"source": "import nothing_of_the_kind"}),
    ("tk-plugin-deadly", "1.0", ("tk-kernel",), {"source": "import os\nos._exit(9)"}),
    ("tk-stranger", "1.0", ("acme-lib",), {"entry": False, "source": ""}),
)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels, in the place of an index."""
    sources, into = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name, version, needs, more in PACKAGES:
        folder = package(sources / f"{name}-{version}", name, version, *needs, **more)
        list(WheelBuilder(str(folder)).build(directory=str(into), versions=["standard"]))
    return into


def wheel(folder: Path, begin: str) -> Path:
    (found,) = folder.glob(f"{begin}-*.whl")
    return found


@dataclass(frozen=True)
class Place:
    """An environment of its own, which sees the packages of this one, and where they may be had from."""

    python: Path
    environ: dict[str, str]

    def tk(self, *args: str | Path, code: int = 0) -> str:
        command = [self.python, "-m", "tk", *args]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environ, timeout=300, check=False)
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *args: str | Path, code: int = 0) -> Any:
        return json.loads(self.tk(*args, "--json", code=code).partition("\nError")[0])

    def version(self, name: str) -> str:
        text = "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
        text += "try:\n    print(version(sys.argv[1]))\nexcept PackageNotFoundError:\n    print('')"
        command = [self.python, "-c", text, name]
        return subprocess.run(command, capture_output=True, text=True, env=self.environ, check=True).stdout.strip()


Make = Callable[..., Place]


@pytest.fixture
def make(tmp_path: Path, wheels: Path) -> Make:
    def made(*installed: str) -> Place:
        venv.create(tmp_path / "env", with_pip=False, symlinks=True)
        python = tmp_path / "env" / "bin" / "python"
        inside = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env"), "platbase": str(tmp_path / "env")})
        parent = sysconfig.get_paths()["purelib"]
        (Path(inside) / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TK_", "PYTEST", "PIP_"))}
        own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull, "COLUMNS": "300"}
        place = Place(python, {**kept, **own, "PIP_NO_BUILD_ISOLATION": "false"})
        if installed:
            pip = [python, "-m", "pip", "install", "-q", "--no-deps", *installed]
            subprocess.run(pip, check=True, capture_output=True, env=place.environ)
        return place

    return made


@pytest.mark.slow
def test_a_plugin_is_installed_by_its_short_name_and_says_what_it_brought(make):
    place = make()
    shown = place.tk("plugins", "install", "good@1.0", "--dry-run")
    assert [line.split() for line in shown.splitlines()[:3]] == [
        ["PACKAGE", "NOW", "THEN"],
        ["tk-plugin-good", "-", "1.0"],
        ["acme-lib", "-", "2.0"],
    ]
    assert place.version("tk-plugin-good") == ""
    assert "tk-plugin-good: reward:good" in place.tk("plugins", "install", "good@1.0", "--yes")
    assert place.version("tk-plugin-good") == "1.0"
    done = place.json("plugins", "install", "tk-plugin-good@2.0", "--yes")
    assert done["changes"] == [{"name": "tk-plugin-good", "before": "1.0", "after": "2.0"}]
    assert done["brought"] == [
        {"distribution": "tk-plugin-good", "components": ["reward:good"], "problems": [], "lacking": []}
    ]
    assert "nothing changes" in place.tk("plugins", "install", "good")


def test_nobody_is_asked_where_nobody_can_answer(make):
    place = make()
    assert "say --yes" in place.tk("plugins", "install", "good", code=2)
    assert place.version("tk-plugin-good") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "reason"),
    [("greedy", "acme-lib>=2"), ("torchy", "torch>=99")],
)
def test_what_would_change_another_package_is_refused_and_changes_nothing(plugin, reason, make):
    place = make("acme-lib==1.0")
    before = place.version("torch")
    done = place.json("plugins", "install", plugin, "--yes", code=1)
    assert done["done"] is False
    assert reason in done["refused"]
    said = place.tk("plugins", "install", plugin, "--yes", code=1)
    assert "nothing was installed: with what is installed as it is: " in said
    assert place.version(f"tk-plugin-{plugin}") == ""
    assert place.version("acme-lib") == "1.0"
    assert place.version("torch") == before


def test_an_installed_package_that_is_no_plugin_is_not_changed(make, wheels):
    place = make("acme-lib==1.0")
    said = place.tk("plugins", "install", wheel(wheels, "acme_lib-2.0"), "--yes", code=1)
    assert "acme-lib: no tk plugin, and installed" in said
    assert place.version("acme-lib") == "1.0"


@pytest.mark.slow
def test_what_is_no_plugin_is_taken_away_again_with_what_came_with_it(make):
    place = make()
    assert "tk-stranger: no tk plugin" in place.tk("plugins", "install", "tk-stranger", "--yes", code=1)
    assert place.version("tk-stranger") == ""
    assert place.version("acme-lib") == ""


def test_a_wheel_and_a_folder_are_installed(make, wheels, tmp_path):
    place = make("acme-lib==1.0")
    place.tk("plugins", "install", wheel(wheels, "tk_plugin_good-1.0"), "--yes")
    assert place.version("tk-plugin-good") == "1.0"
    folder = package(tmp_path / "mine", "tk-plugin-mine", "0.1", "tk-kernel")
    assert "reward:mine" in place.tk("plugins", "install", f"{folder}/", "--editable", "--yes")
    (folder / "tk_plugin_mine" / "__init__.py").write_text(PLUGIN.format(name="other", module="tk_plugin_mine"))
    assert "other" in place.tk("rewards", "list")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("no/such/folder", "no/such/folder: there is no such folder or wheel."),
        ("good@@", "names no plugin: write NAME, NAME@VERSION"),
        ("never-heard-of", "tk-plugin-never-heard-of"),
    ],
)
def test_a_wrong_name_is_one_message(word, message, make):
    said = make().tk("plugins", "install", word, "--yes", code=1 if "never" in word else 2)
    assert message in said
    assert "Traceback" not in said


def test_a_folder_whose_project_is_being_written_is_one_message(make, tmp_path):
    folder = package(tmp_path / "mine", "tk-plugin-mine", "0.1", "tk-kernel")
    (folder / "pyproject.toml").write_text('[project]\nname = "tk-plugin-mi\n')
    said = make().tk("plugins", "install", f"{folder}/", "--yes", code=2)
    assert f"{folder}/: {folder}/pyproject.toml cannot be read: Illegal character" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_broken_plugin_is_told_when_it_is_installed_and_removed_like_any_other(make):
    place = make()
    said = place.tk("plugins", "install", "broken", "--yes", code=1)
    assert "tk-plugin-broken: broken\n" in said
    assert "it needs the package 'nothing_of_the_kind'" in said
    place.tk("plugins", "uninstall", "broken", "--yes")
    assert place.version("tk-plugin-broken") == ""


def test_one_that_ends_every_process_that_loads_it_is_removed(make):
    place = make("tk-plugin-deadly")
    assert subprocess.run([place.python, "-m", "tk", "rewards", "list"], env=place.environ, check=False).returncode == 9
    place.tk("plugins", "uninstall", "deadly", "--yes")
    assert place.tk("rewards", "list")


@pytest.mark.slow
def test_removing_says_who_needs_it_and_refuses_what_is_no_plugin(make):
    place = make("acme-lib==1.0", "tk-plugin-good==1.0", "tk-plugin-upper")
    assert "acme-lib is no tk plugin" in place.tk("plugins", "uninstall", "acme-lib", "--yes", code=2)
    assert "tk-kernel is no tk plugin" in place.tk("plugins", "uninstall", "tk-kernel", "--yes", code=2)
    assert "No plugin named 'godo' is installed. Did you mean 'good'?" in place.tk(
        "plugins", "uninstall", "godo", code=2
    )
    assert "will be broken: tk-plugin-upper" in place.tk("plugins", "uninstall", "good", "--dry-run")
    done = place.json("plugins", "uninstall", "good", "--yes")
    assert done == {
        "removed": [{"name": "tk-plugin-good", "before": "1.0"}],
        "dependents": ["tk-plugin-upper"],
        "notes": [],
        "done": True,
    }
    assert place.version("tk-plugin-good") == ""
    assert place.version("acme-lib") == "1.0"


@pytest.mark.slow
def test_every_copy_of_its_metadata_goes(make):
    place = make("tk-plugin-good==1.0")
    (info,) = place.python.parents[1].rglob("tk_plugin_good-1.0.dist-info")
    shutil.copytree(info, info.with_name("tk_plugin_good-0.9.dist-info"))
    metadata = info.with_name("tk_plugin_good-0.9.dist-info") / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 0.9"))
    assert "its metadata stands 2 times" in place.tk("plugins", "check", "tk-plugin-good", code=1)
    place.tk("plugins", "uninstall", "good", "--yes")
    assert not list(info.parent.glob("tk_plugin_good*"))


def test_one_without_a_record_of_its_files_is_found_no_more_and_what_is_left_is_told(make):
    place = make("tk-plugin-broken")
    (info,) = place.python.parents[1].rglob("tk_plugin_broken-1.0.dist-info")
    (info / "RECORD").unlink()
    said = place.tk("plugins", "uninstall", "broken", "--yes")
    assert f"its code may still be in {info.parent}" in said.replace("/\n", "\n")
    assert place.version("tk-plugin-broken") == ""
    assert "tk-plugin-broken" not in place.tk("plugins", "list")


@pytest.mark.slow
def test_a_manifest_restores_what_it_names(make, tmp_path, wheels):
    place = make("acme-lib==1.0", "tk-plugin-good==1.0", str(wheel(wheels, "tk_plugin_upper-1.0")))
    lines = place.tk("plugins", "list", "--freeze")
    manifest, listed, run = (tmp_path / name for name in ("plugins.txt", "plugins.json", "run.json"))
    manifest.write_text(lines)
    listed.write_text(place.tk("plugins", "list", "--json"))
    good = {"distribution": "tk-plugin-good", "version": "1.0", "source": "", "editable": False}
    run.write_text(json.dumps({"plugins": [good, {"distribution": "/my/reward.py", "version": ""}]}))
    assert "tk-plugin-good==1.0" in lines.splitlines()
    assert f"tk-plugin-upper @ {wheel(wheels, 'tk_plugin_upper-1.0').as_uri()}" in lines.splitlines()
    assert "nothing changes" in place.tk("plugins", "sync", manifest)
    place.tk("plugins", "install", "good@2.0", "broken", "--yes", code=1)
    place.tk("plugins", "uninstall", "upper", "--yes")
    good = {"name": "tk-plugin-good", "before": "2.0", "after": "1.0"}
    upper = {"name": "tk-plugin-upper", "before": "", "after": "1.0"}
    assert place.json("plugins", "sync", run, "--dry-run")["changes"] == [good]
    assert place.json("plugins", "sync", listed, "--dry-run")["changes"] == [good, upper]
    done = place.json("plugins", "sync", manifest, "--yes")
    assert done["changes"] == [good, upper]
    assert "tk-plugin-broken" in done["unnamed"]
    assert place.version("tk-plugin-good") == "1.0"


@pytest.mark.slow
def test_what_came_from_a_repository_is_restored_from_its_commit(make, tmp_path):
    place = make("acme-lib==1.0")
    package(tmp_path / "repository" / "below", "tk-plugin-mine", "0.1", "tk-kernel")
    git = ["git", "-C", tmp_path / "repository", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    url = f"git+{(tmp_path / 'repository').as_uri()}"
    pip = [place.python, "-m", "pip", "install", "-q", "--no-deps", f"{url}#subdirectory=below"]
    subprocess.run(pip, check=True, env=place.environ)
    manifest, listed = tmp_path / "plugins.txt", tmp_path / "plugins.json"
    manifest.write_text(place.tk("plugins", "list", "--freeze"))
    listed.write_text(place.tk("plugins", "list", "--json"))
    assert f"tk-plugin-mine @ {url}@{commit}#subdirectory=below" in manifest.read_text().splitlines()
    (tmp_path / "repository" / "below" / "tk_plugin_mine" / "__init__.py").write_text("")
    subprocess.run([*git, "commit", "-q", "-a", "-m", "two"], check=True)
    for file in (manifest, listed):
        assert "nothing changes" in place.tk("plugins", "sync", file)
        place.tk("plugins", "uninstall", "mine", "--yes")
        assert "tk-plugin-mine: reward:mine" in place.tk("plugins", "sync", file, "--yes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tk-plugin-good==1.0\nwhat is this\n", "plugins.txt:2: 'what is this' names no plugin"),
        ("-e /no/such/folder\n", "plugins.txt:1: /no/such/folder: there is no such folder"),
        ("tk-plugin-x @ file:///no/such/folder\n", "plugins.txt:1: /no/such/folder: there is no such folder"),
        ('{"nothing": 1}', "plugins.txt: this is no manifest of plugins"),
        ('[{"distribution": "tk-plugin-x", "version": "1"}]', "plugins.txt: this is no manifest of plugins"),
        (
            '[{"distribution": "tk-plugin-x", "version": "1", "source": "file:///no/such", "editable": false}]',
            "tk-plugin-x 1 was installed from /no/such, which is not here",
        ),
        (None, "plugins.txt: there is no such file."),
    ],
)
def test_a_mistake_in_a_manifest_is_named_with_its_line(text, message, make, tmp_path):
    file = tmp_path / "plugins.txt"
    if text is not None:
        file.write_text(text)
    assert message in make().tk("plugins", "sync", file, code=2)


UV = shutil.which("uv", path=f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', '')}")


def needed_by(project: Path) -> list[Distribution]:
    """What a pyproject.toml asks for, and what that needs, as it is installed here."""
    there, found = Installed(), {}
    wanted = [Requirement(line) for line in tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]]
    while wanted:
        one = there.get(wanted.pop().name)
        if one.name not in found:
            found[one.name] = one
            wanted += requirements(one)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_uv_does_it_where_there_is_no_pip(wheels, tmp_path):
    """An environment as uv makes them: the kernel and what it needs, without pip."""
    env = tmp_path / "env"
    own = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels), "UV_NO_CONFIG": "1", "COLUMNS": "300"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TK_", "PYTEST", "UV_"))}
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, env], check=True, capture_output=True, env=kept | own)
    (inside,) = env.glob("lib/python*/site-packages")
    for found in needed_by(ROOT / "core" / "pyproject.toml"):
        for file in found.files or ():
            if ".." not in file.parts:
                (inside / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), inside / file)
    path = f"{os.path.dirname(UV)}{os.pathsep}{os.environ['PATH']}"
    place = Place(env / "bin" / "python", {**kept, **own, "PATH": path})
    list(WheelBuilder(str(ROOT / "core")).build(directory=str(tmp_path), versions=["standard"]))
    uv = [UV, "pip", "install", "-q", "--python", place.python, "--no-deps"]
    subprocess.run([*uv, "acme-lib==1.0", wheel(tmp_path, f"tk_kernel-{__version__}")], check=True, env=place.environ)
    done = place.json("plugins", "install", "good@1.0", "--yes")
    assert done["changes"] == [{"name": "tk-plugin-good", "before": "", "after": "1.0"}]
    assert done["brought"][0]["components"] == ["reward:good"]
    refused = place.json("plugins", "install", "greedy", "--yes", code=1)["refused"]
    assert "acme-lib>=2" in refused
    assert place.version("acme-lib") == "1.0"
    place.tk("plugins", "uninstall", "good", "--yes")
    assert place.version("tk-plugin-good") == ""
