"""What components say they need: told in lists, and when one is chosen, without importing anything."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from tk import Spec, doc, needs, plugins
from tk.errors import TkError
from tk.plugins import Selection
from tk.registry import Component
from tk.specs import KINDS

PLUGIN = """
    from dataclasses import dataclass
    from typing import Annotated
    from tk import TrackerSpec, doc, hookimpl

    @dataclass(frozen=True)
    class Options:
        python: Annotated[str, doc("Another interpreter.")] = ""

    @hookimpl
    def tk_trackers():
        yield TrackerSpec(name="{name}", target="x:y", config=Options, summary="Sends.", needs={needs}, **{more})
"""
TRACKERS = next(kind for kind in KINDS if kind.name == "trackers")


@dataclass(frozen=True)
class Options:
    python: Annotated[str, doc("Another interpreter.")] = ""


def component(*words: str, extra: str = "", elsewhere: tuple[str, ...] = ()) -> Component:
    spec = Spec(name="far", target="x:y", config=Options, needs=words, extra=extra, elsewhere=elsewhere)
    return Component(TRACKERS, spec, "tk-plugin-far", "1.0")


def test_a_module_is_looked_for_and_not_imported(site: Path):
    (site / "explodes_when_imported.py").write_text("raise SystemExit")
    assert needs.absent(["module:explodes_when_imported", "module:not_there_at_all"]) == ["module:not_there_at_all"]
    assert "explodes_when_imported" not in sys.modules


def test_a_program_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needs.absent(["program:sbatch"]) == ["program:sbatch"]
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    assert needs.absent(["program:sbatch"]) == []


@pytest.mark.parametrize("word", ["wandb", "module:", "module:a.b", "program:a b", "file:x", "module:1x"])
def test_a_word_of_another_form_breaks_its_plugin(word, install, found):
    assert not needs.is_need(word)
    install("tk-plugin-bad", PLUGIN.format(name="x", needs=(word,), more={}))
    (plugin,) = plugins.load(Selection(), found=found()).plugins
    assert plugin.status == "broken"
    assert f"{word!r} is no need" in plugin.reason


def test_what_is_lacking_is_named_with_the_command_that_brings_it():
    assert component("module:json").lacks() == ""
    assert component("module:not_here").lacks() == (
        "it needs the module 'not_here', not found here: pip install not_here"
    )
    assert component("module:not_here", extra="tk-plugin-far[all]").lacks().endswith("pip install 'tk-plugin-far[all]'")
    both = component("module:not_here", "program:not-there").lacks()
    assert "the module 'not_here' and the program 'not-there'" in both
    assert both.endswith("pip install not_here, and put not-there on the path")


def test_what_runs_elsewhere_needs_nothing_here():
    far = component("module:not_here", elsewhere=("python",))
    assert far.lacks(Options()).endswith("or say where it is (python)")
    assert far.lacks(Options(python="/other/python")) == ""
    with pytest.raises(TkError, match=r"^trackers.far: tracker 'far' of tk-plugin-far cannot be used: it needs"):
        far.require("trackers.far", Options())


def test_lists_and_checks_tell_it(tk, install):
    install("tk-plugin-far", PLUGIN.format(name="far", needs=("module:not_here",), more={"extra": "tk-plugin-far[x]"}))
    environ = {"TK_PLUGINS": "tk-plugin-far"}
    told = "it needs the module 'not_here', not found here: pip install 'tk-plugin-far[x]'"
    assert json.loads(tk("trackers", "list", "--json", env=environ).stdout)[0]["lacks"] == told
    assert "(not usable here: it needs" in tk("trackers", "list", env=environ).stdout
    assert f"not usable here: {told}" in tk("trackers", "show", "far", env=environ).stdout
    checked = tk("trackers", "check", "far", env=environ)
    assert checked.returncode == 1
    assert told in checked.stderr
    whole = tk("plugins", "check", "tk-plugin-far", "--json", env=environ)
    assert whole.returncode == 0, whole.stdout
    assert [told in row["problem"] for row in json.loads(whole.stdout)["lacking"]] == [True]
