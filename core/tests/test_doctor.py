"""`tk doctor`: what it says of plugins in any state, and of what is chosen by default."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tk import doctor, installed

LOCAL = """
    from tk import LauncherSpec, hookimpl

    @hookimpl
    def tk_launchers():
        yield LauncherSpec(name="local", target="{module}:Local", summary="Here.")

    class Local:
        pass
"""


@pytest.fixture
def report(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What is found of test plugins, and of no other, where there is no torch (importing it takes seconds)."""
    (site / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))

    def examine(*plugins: str) -> doctor.Report:
        monkeypatch.setenv("TK_PLUGINS", ",".join(plugins))
        importlib.invalidate_caches()
        return doctor.examine()

    return examine


def state(report: doctor.Report, distribution: str) -> doctor.Found:
    (found,) = [plugin for plugin in report.plugins if plugin.distribution == distribution]
    return found


def test_a_plugin_in_order_is_ok_and_its_default_is_used(report, install):
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    found = report("tk-plugin-here")
    assert state(found, "tk-plugin-here").state == "ok"
    assert [(c.kind, c.name, c.default, c.usable) for c in found.components] == [("launchers", "local", True, True)]
    assert found.ok


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import nothing_of_the_kind", "it needs the package 'nothing_of_the_kind'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            "from tk import hookimpl\n@hookimpl\ndef tk_rewards():\n    import os\n    os._exit(8)",
            "loading it ends the process with exit code 8",
        ),
        ("import os\nos._exit(7)", "loading it ends the process with exit code 7"),
        ("import os\nos._exit(0)", "loading it ends the process with exit code 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "loading it ends the process by signal SIGSEGV"),
    ],
)
def test_any_broken_plugin_is_told_with_its_mend_and_hides_no_other(source, why, report, install):
    install("tk-plugin-bad", source)
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    found = report("tk-plugin-bad", "tk-plugin-here")
    bad = state(found, "tk-plugin-bad")
    assert bad.state == "broken"
    assert why in bad.why
    assert bad.mend
    assert state(found, "tk-plugin-here").state == "ok"
    assert [c.usable for c in found.components] == [True]


def test_a_plugin_that_is_never_loaded_to_the_end_is_told(report, install, monkeypatch):
    monkeypatch.setattr(doctor, "TIME_LIMIT", 3)
    install("tk-plugin-bad", "import time\ntime.sleep(1000)")
    assert state(report("tk-plugin-bad"), "tk-plugin-bad").why == "loading it takes more than 3 seconds"


def test_a_default_that_cannot_be_imported_is_broken(report, install):
    install("tk-plugin-here", LOCAL.format(module="gone_since"))
    found = report("tk-plugin-here")
    assert not found.ok
    assert "launcher local: ModuleNotFoundError: No module named 'gone_since'" in found.broken


@pytest.mark.parametrize("code", [0, 1])
def test_a_component_that_ends_the_process_is_told_and_the_next_is_asked(code, report, install, site):
    (site / "deadly.py").write_text(f"import os\nos._exit({code})\n")
    source = LOCAL.format(module="tk_plugin_here") + (
        "    @hookimpl\n    def tk_trackers():\n"
        "        from tk import TrackerSpec\n"
        "        yield TrackerSpec(name='deadly', target='deadly:X')\n"
        "        yield TrackerSpec(name='harmless', target='json:loads')\n"
    )
    install("tk-plugin-here", source)
    found = {c.name: c.why for c in report("tk-plugin-here").components}
    assert found == {"local": "", "deadly": f"importing it ends the process with exit code {code}", "harmless": ""}


def test_what_fails_when_all_is_answered_is_usable(report, install, site):
    (site / "late.py").write_text("import atexit, os\natexit.register(os._exit, 5)\nLocal = int\n")
    install("tk-plugin-here", LOCAL.format(module="late"))
    assert [(c.name, c.why) for c in report("tk-plugin-here").components] == [("local", "")]


def test_a_default_that_only_a_broken_plugin_can_have_is_broken(report, install):
    install("tk-plugin-bad", "import nothing_of_the_kind")
    found = report("tk-plugin-bad")
    assert not found.ok
    assert "launcher local: no plugin that could be loaded has it (broken: tk-plugin-bad)" in found.broken


def test_nothing_is_broken_where_nothing_is_installed(report):
    found = report("tk-plugin-none-of-them")
    assert {plugin.state for plugin in found.plugins} <= {"disabled"}
    assert found.machine["torch"] == "not installed"
    assert found.components == []
    assert found.ok


def test_what_is_not_here_and_needed_is_told(report, install):
    source = (
        "from tk import TrackerSpec, hookimpl\n@hookimpl\ndef tk_trackers():\n"
        "    yield TrackerSpec(name='far', target='x:y', needs=('module:not_here',))\n"
    )
    install("tk-plugin-far", source)
    (component,) = report("tk-plugin-far").components
    assert component.why == "it needs the module 'not_here', not found here: pip install not_here"


def test_metadata_that_stands_twice_and_files_that_are_gone(report, install, site, tmp_path, monkeypatch):
    path = install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    record = site / "tk_plugin_here-1.0.dist-info" / "RECORD"
    record.write_text("tk_plugin_here.py,,\ntk_plugin_here_more.py,,\n")
    found = state(report("tk-plugin-here"), "tk-plugin-here")
    assert found.state == "stale metadata"
    assert found.why == "1 of its 2 files are gone (the first: tk_plugin_here_more.py)"
    record.write_text(f"{path.name},,\n")
    assert state(report("tk-plugin-here"), "tk-plugin-here").state == "ok"
    other = site / "tk_plugin_here-0.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: tk-plugin-here\nVersion: 0.9\n")
    (other / "entry_points.txt").write_text("[tk]\nhere = tk_plugin_here\n")
    found = state(report("tk-plugin-here"), "tk-plugin-here")
    assert found.state == "duplicate"
    assert "its metadata stands 2 times on the path" in found.why


@pytest.mark.parametrize("content", [b"[tk]\nno value\n", b"\xff\xfe[tk]\n"])
def test_entry_points_that_cannot_be_read_are_told_and_hide_no_other(report, install, site, content):
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    for name in ("tk-plugin-bad", "anybodys"):
        install(name, "")
        (site / f"{name.replace('-', '_')}-1.0.dist-info" / "entry_points.txt").write_bytes(content)
    found = report("tk-plugin-here", "tk-plugin-bad", "anybodys")
    assert state(found, "tk-plugin-here").state == "ok"
    assert [c.usable for c in found.components] == [True]
    bad = state(found, "tk-plugin-bad")
    assert (bad.state, bad.why.partition(" (")[0]) == ("broken", "its entry_points.txt cannot be read")
    assert "uninstall tk-plugin-bad" in bad.mend
    assert "anybodys" not in [plugin.distribution for plugin in found.plugins]


def test_an_editable_install_whose_folder_has_moved_on_is_stale(install, site, tmp_path):
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    folder = tmp_path / "source"
    direct = {"url": folder.as_uri(), "dir_info": {"editable": True}}
    (site / "tk_plugin_here-1.0.dist-info" / "direct_url.json").write_text(json.dumps(direct))
    importlib.invalidate_caches()

    def told() -> str:
        return installed.stale(installed.Installed().plugins()["tk-plugin-here"])

    assert told() == f"its folder {folder} is gone"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n[project.entry-points.tk]\nother = "y"\n')
    assert told() == f"it is installed with other entry points than {folder}/pyproject.toml has"
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.entry-points.tk]\ntk-plugin-here = "tk_plugin_here"\n'
    )
    assert told() == ""
    (folder / "pyproject.toml").write_text('[project]\nname = "x\n')
    assert told().startswith(f"{folder}/pyproject.toml cannot be read: Illegal character")


def test_what_plugins_depend_on_is_told_with_what_does_not_meet_it(report, install, site):
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    metadata = site / "tk_plugin_here-1.0.dist-info" / "METADATA"
    needed = (
        "Requires-Dist: pluggy>=99\nRequires-Dist: not-installed-at-all\nRequires-Dist: nor-this; extra == 'more'\n"
    )
    metadata.write_text(metadata.read_text() + needed)
    found = {package.name: package for package in report("tk-plugin-here").packages}
    assert found["pluggy"].version
    assert "tk-plugin-here wants pluggy>=99" in found["pluggy"].wrong
    assert found["not-installed-at-all"].version == ""
    assert "nor-this" not in found
    assert found["typer"].wrong == ""


def test_a_requirement_that_cannot_be_read_is_told_of_a_plugin_and_no_matter_of_others(report, install, site, tk):
    for name in ("tk-plugin-here", "omegaconf"):
        path = install(name, LOCAL.format(module="tk_plugin_here"))
        metadata = path.with_name(f"{path.stem}-1.0.dist-info") / "METADATA"
        metadata.write_text(metadata.read_text() + "Requires-Dist: PyYAML (>=5.1.*)\nRequires-Dist: pluggy>=99\n")
    (site / "omegaconf-1.0.dist-info" / "entry_points.txt").unlink()
    found = report("tk-plugin-here")
    here = state(found, "tk-plugin-here")
    told = "its metadata names 'PyYAML (>=5.1.*)', which is no requirement that can be read"
    assert (here.state, here.notes) == ("ok", [told])
    assert [p.wanted_by for p in found.packages if p.name == "pluggy" and p.wrong] != []
    assert installed.Installed().get("omegaconf") is not None
    checked = tk("plugins", "check", "tk-plugin-here", env={"TK_PLUGINS": "tk-plugin-here"})
    assert f"tk-plugin-here: {told}\n" in checked.stdout


def test_the_command_prints_what_was_found_and_its_exit_code(tk, install):
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    fine = tk("doctor", env={"TK_PLUGINS": "tk-plugin-here"})
    assert fine.returncode == 0, fine.stderr
    assert re.search(r"launchers +local \(default\) +yes", fine.stdout)
    assert "Nothing that is chosen by default is broken." in fine.stdout
    install("tk-plugin-bad", "import os\nos._exit(7)")
    environ = {"TK_PLUGINS": "tk-plugin-bad", "TK_STRICT": "1"}
    bad = tk("doctor", env=environ)
    assert bad.returncode == 1
    assert "tk-plugin-bad (broken): loading it ends the process with exit code 7" in bad.stdout
    plain = json.loads(tk("doctor", "--json", env=environ).stdout)
    assert plain["ok"] is False
    assert {"python", "cpu", "memory", "disk", "gpu", "torch"} <= set(plain["machine"])


def test_a_broken_torch_is_told_and_breaks_nothing(report, install, site):
    install("tk-plugin-here", LOCAL.format(module="tk_plugin_here"))
    (site / "torch.py").write_text("import os\nos._exit(11)\n")
    found = report("tk-plugin-here")
    assert found.machine["torch"].startswith("cannot be imported: it ends the process with exit code 11")
    assert found.ok


def test_one_process_asks_of_the_gpu(site, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 550.54.15'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert doctor._gpus() == ["NVIDIA H100 80GB HBM3, 81559 MiB, driver 550.54.15"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert "does not answer" in doctor._gpus()[0]
