"""Discovery: what is found, what is isolated, and what a name that cannot be had says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tk import packages, plugins
from tk.errors import TkError, UsageError
from tk.hookspecs import hookspec  # noqa: F401  (the public page)
from tk.installed import Installed
from tk.plugins import Selection
from tk.specs import KINDS

GOOD = """
    from tk import RewardSpec, hookimpl

    @hookimpl
    def tk_rewards():
        yield RewardSpec(name="{name}", target="{module}:Made", summary="A test.")

    class Made:
        pass
"""


def good(name: str = "good", module: str = "tk_plugin_good") -> str:
    return GOOD.format(name=name, module=module)


BROKEN = {
    "import error": ("import a_package_that_is_not_there", "'a_package_that_is_not_there', which is not installed"),
    "missing attribute": ("from os import nothing_of_the_kind", "ImportError: cannot import name"),
    "syntax error": ("def broken(:", "syntax error"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "endless recursion": ("def f(): return f()\nf()", "RecursionError"),
    "keyboard abort of its own": ("raise GeneratorExit", "GeneratorExit"),
    "wrong api": ("TK_API = 99", "written for kernel API 99, and this kernel has 1: pip install --upgrade tk-kernel"),
    "api of the past": ("TK_API = 0", "pip install --upgrade tk-plugin-bad"),
    "hook raises": (
        "from tk import hookimpl\n@hookimpl\ndef tk_rewards():\n    raise ValueError('no luck')",
        "ValueError: no luck",
    ),
    "hook is a generator that raises": (
        "from tk import hookimpl\n@hookimpl\ndef tk_rewards():\n    yield from []\n    raise OSError('late')",
        "OSError: late",
    ),
    "spec of the wrong type": (
        "from tk import LossSpec, hookimpl\n@hookimpl\ndef tk_rewards():\n    return [LossSpec(name='x', target='a:b')]",
        "tk_rewards returned LossSpec, not RewardSpec",
    ),
    "no spec at all": (
        "from tk import hookimpl\n@hookimpl\ndef tk_rewards():\n    return ['x']",
        "tk_rewards returned str, not RewardSpec",
    ),
    "hook with arguments": (
        "from tk import hookimpl\n@hookimpl\ndef tk_rewards(config):\n    return []",
        "PluginValidationError",
    ),
    "unknown capability": (
        "from tk import LossSpec, hookimpl\n@hookimpl\n"
        "def tk_losses():\n    return [LossSpec(name='x', target='a:b', supports=('pakcing',))]",
        "Did you mean 'packing'?",
    ),
    "bad name": (
        "from tk import LossSpec, hookimpl\n@hookimpl\ndef tk_losses():\n    return [LossSpec(name='a b', target='a:b')]",
        "is no name for a loss",
    ),
    "bad target": (
        "from tk import LossSpec, hookimpl\n@hookimpl\ndef tk_losses():\n    return [LossSpec(name='x', target='a.b')]",
        "not of the form 'module:attribute'",
    ),
    "a kind that exists": (
        "from tk import KindSpec, hookimpl\n@hookimpl\n"
        "def tk_kinds():\n    return [KindSpec(name='losses', singular='loss', summary='mine')]",
        "the kind 'losses' exists already",
    ),
    "a section that exists": (
        "from tk import KindSpec, hookimpl\n@hookimpl\n"
        "def tk_kinds():\n    return [KindSpec(name='mine', singular='mine', summary='mine', section='tuner')]",
        "the config section 'tuner' of the kind 'mine' exists already",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_breaks_nothing_else(case, install, found, capfd):
    source, reason = BROKEN[case]
    install("tk-plugin-bad", source)
    install("tk-plugin-good", good())
    registry = plugins.load(Selection(), found=found())
    states = {p.distribution: p for p in registry.plugins}
    assert states["tk-plugin-bad"].status == "broken"
    assert reason in states["tk-plugin-bad"].problem
    assert states["tk-plugin-good"].status == "ok"
    assert registry.get("rewards", "good").name == "good"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("written", "mend"),
    [
        (None, "tk plugins uninstall tk-plugin-bad, then tk plugins install tk-plugin-bad"),
        ({"url": "file://{here}", "dir_info": {"editable": True}}, "mend it in {here}, or tk plugins uninstall"),
        ({"url": "file://{here}", "dir_info": {}}, "then tk plugins install {here}"),
        ({"url": "file:///gone", "dir_info": {}}, "tk plugins uninstall tk-plugin-bad"),
        (
            {"url": "https://example.org/bad.whl", "archive_info": {}},
            "then pip install 'tk-plugin-bad @ https://example.org/bad.whl'",
        ),
    ],
)
def test_a_broken_plugin_is_installed_anew_from_where_it_came_from(written, mend, install, found, site: Path):
    install("tk-plugin-bad", "def broken(:")
    if written:
        direct = json.dumps(written).replace("{here}", str(site))
        (site / "tk_plugin_bad-1.0.dist-info" / "direct_url.json").write_text(direct)
    importlib.invalidate_caches()
    (plugin,) = plugins.load(Selection(), found=found()).plugins
    assert mend.replace("{here}", str(site)) in plugin.mend
    assert ("then" in mend) == ("then" in plugin.mend)


def test_output_at_import_is_kept_off_the_terminal_and_noted(install, found, capfd):
    install("tk-plugin-loud", "    print('HELLO')\n" + good("loud"))
    registry = plugins.load(Selection(), found=found())
    assert registry.plugins[0].status == "ok"
    assert registry.plugins[0].notes == ("it prints when it is loaded: 'HELLO'",)
    assert capfd.readouterr() == ("", "")


def test_an_entry_point_to_nothing_is_broken(install, found):
    install("tk-plugin-bad", "", entry="no_module_here.plugin")
    assert "no_module_here" in plugins.load(Selection(), found=found()).plugins[0].reason


def test_asking_for_a_missing_name_suggests_the_nearest_and_tells_what_is_broken(install, found):
    install("tk-plugin-good", good("format"))
    with pytest.raises(UsageError, match="No reward is named 'fromat'. Did you mean 'format'?"):
        plugins.load(Selection(), found=found()).get("rewards", "fromat")
    install("tk-plugin-bad", "import a_package_that_is_not_there")
    with pytest.raises(UsageError, match="could not be loaded and may have it: tk-plugin-bad: it needs"):
        plugins.load(Selection(), found=found()).get("rewards", "other")


def test_one_name_in_two_distributions_is_an_error_only_for_who_asks_for_it(install, found):
    install("tk-plugin-one", good("same", "tk_plugin_one"))
    install("tk-plugin-two", good("same", "tk_plugin_two"))
    registry = plugins.load(Selection(), found=found())
    assert [p.status for p in registry.plugins] == ["ok", "ok"]
    with pytest.raises(UsageError, match="'tk-plugin-one:same' or 'tk-plugin-two:same'"):
        registry.get("rewards", "same")
    assert registry.get("rewards", "tk-plugin-two:same").distribution == "tk-plugin-two"


@pytest.mark.parametrize(
    "selection",
    [Selection(disable=("tk-plugin-good",)), Selection(only=("something-else",))],
)
def test_a_disabled_plugin_says_so_when_it_is_asked_for(selection, install, found):
    install("tk-plugin-good", good())
    registry = plugins.load(selection, found=found())
    assert registry.plugins[0].status == "disabled"
    with pytest.raises(UsageError, match="tk-plugin-good has it and is disabled"):
        registry.get("rewards", "good")


def test_environment_chooses_plugins():
    environ = {"TK_PLUGINS": "a, b", "TK_DISABLE_PLUGINS": "c", "TK_STRICT": "1"}
    assert Selection.from_environment(environ) == Selection(("a", "b"), ("c",), True)
    assert Selection.from_environment({"TK_STRICT": "0"}) == Selection()


def test_strict_mode_refuses_a_broken_plugin(install, found):
    install("tk-plugin-bad", "1/0")
    with pytest.raises(TkError, match="tk-plugin-bad is broken: ZeroDivisionError"):
        plugins.load(Selection(strict=True), found=found())


def test_a_plugin_adds_a_kind_and_another_fills_it_whatever_their_order(install, found):
    install(
        "tk-plugin-a-filler",
        """
        from tk import Spec, hookimpl

        @hookimpl
        def tk_advantages():
            yield Spec(name="group", target="x:y")
        """,
    )
    install(
        "tk-plugin-owner",
        """
        from tk import KindSpec, hookimpl

        @hookimpl
        def tk_kinds():
            yield KindSpec(name="advantages", singular="advantage", summary="Baselines.", section="advantage")
        """,
    )
    for entries in (found(), list(reversed(found()))):
        registry = plugins.load(Selection(), found=entries)
        assert [p.status for p in registry.plugins] == ["ok", "ok"]
        assert registry.names("advantages") == ["group"]


def test_a_hook_that_nobody_knows_is_noted_with_the_nearest(install, found):
    install("tk-plugin-typo", "from tk import hookimpl\n@hookimpl\ndef tk_reward():\n    return []")
    (plugin,) = plugins.load(Selection(), found=found()).plugins
    assert plugin.status == "ok"
    assert "tk_reward is no hook here" in plugin.notes[0]
    assert "Did you mean 'tk_rewards'?" in plugin.notes[0]


def test_loading_twice_gives_the_same_components_and_fingerprint(install, found):
    install("tk-plugin-good", good())
    first, second = (plugins.load(Selection(), found=found() * 2) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    assert len(first.plugins) == len(first.all("rewards")) == 1


def test_listing_imports_no_target(install, found, site):
    (site / "heavy_target.py").write_text("raise RuntimeError('imported')")
    install("tk-plugin-good", good(module="heavy_target"))
    registry = plugins.load(Selection(), found=found())
    assert registry.names("rewards") == ["good"]
    with pytest.raises(TkError, match="cannot be loaded from 'heavy_target:Made': RuntimeError: imported"):
        registry.get("rewards", "good").target()


def test_a_missing_dependency_of_a_target_names_the_extra_that_mends_it(install, found, site):
    (site / "needs_more.py").write_text("import a_package_that_is_not_there")
    install(
        "tk-plugin-good",
        "from tk import RewardSpec, hookimpl\n@hookimpl\ndef tk_rewards():\n"
        "    yield RewardSpec(name='x', target='needs_more:X', extra='tk-plugin-good[all]')",
    )
    with pytest.raises(TkError, match=r"pip install 'tk-plugin-good\[all\]'"):
        plugins.load(Selection(), found=found()).get("rewards", "x").target()


def test_a_local_file_brings_hooks_and_marked_functions(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tk import LossSpec, component, hookimpl\n"
        "@component('rewards')\n"
        "async def short_answers(batch):\n"
        "    '''Favours short answers.'''\n"
        "    return [-float(len(m.text)) for m in batch.completions]\n"
        "@component('rewards', name='other', summary='A class.')\n"
        "class Other: ...\n"
        "@hookimpl\n"
        "def tk_losses():\n"
        "    return [LossSpec(name='mine', target='x:y')]\n"
    )
    registry = plugins.load(Selection(files=(str(path),)), found=[])
    assert registry.names("rewards") == ["other", "short-answers"]
    assert registry.names("losses") == ["mine"]
    reward = registry.get("rewards", "short-answers")
    assert reward.spec.summary == "Favours short answers."
    assert reward.build().__name__ == "short_answers"
    assert type(registry.get("rewards", "other").build()).__name__ == "Other"


@pytest.mark.parametrize(
    ("text", "kind", "reason"), [(None, UsageError, "there is no file"), ("1/0", TkError, "ZeroDivisionError")]
)
def test_a_local_file_that_cannot_be_loaded_is_an_error(text, kind, reason, tmp_path: Path):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(kind, match=reason):
        plugins.load(Selection(files=(str(path),)), found=[])


def test_every_hook_is_documented_typed_and_callable_by_a_plugin(install, found):
    """Each kind of the kernel: its hook's signature is as documented, and a plugin that implements it is heard."""
    import inspect

    from tk import hookspecs

    for kind in KINDS:
        hook = getattr(hookspecs, kind.hook)
        assert inspect.getdoc(hook)
        assert list(inspect.signature(hook).parameters) == []
        assert kind.spec.__name__ in str(inspect.signature(hook).return_annotation)
    body = "\n".join(
        f"@hookimpl\ndef {k.hook}():\n    return [specs.{k.spec.__name__}(name='mine', target='x:y')]" for k in KINDS
    )
    install("tk-plugin-all", f"from tk import hookimpl, specs\n{body}")
    registry = plugins.load(Selection(), found=found())
    assert registry.plugins[0].reason == ""
    assert all(registry.names(kind.name) == ["mine"] for kind in KINDS)


DIALECT = """
    from types import ModuleType
    from tk import DialectSpec, RewardSpec, hookimpl

    @hookimpl
    def tk_dialects():
        yield DialectSpec(name="acme", target="{module}:Acme", imports=("acme",), summary="Files of acme.")

    class Acme:
        def __init__(self):
            self.names = []

        def offer(self, name):
            module = ModuleType(name)
            module.register = self.names.append
            return module

        def read(self, module):
            for name in self.names:
                yield "rewards", RewardSpec(name=name, target=lambda: module)
"""


def test_a_dialect_reads_a_local_file_and_gives_it_the_imports_of_its_framework(install, found, tmp_path: Path):
    import sys

    install("tk-plugin-acme", DIALECT.format(module="tk_plugin_acme"))
    path = tmp_path / "theirs.py"
    path.write_text("from acme import register\nregister('one')\ndef late():\n    import acme\n    return acme\n")
    registry = plugins.load(Selection(files=(str(path),)), found=found())
    module = registry.get("rewards", "one").build()
    assert module.late().__name__ == "acme"
    assert "acme" not in sys.modules
    path.write_text("import acme\nacme.register('two')\n")
    assert plugins.load(Selection(files=(str(path),)), found=found()).names("rewards") == ["two"]


def test_a_local_file_of_nothing_says_what_was_looked_for(install, found, tmp_path: Path):
    install("tk-plugin-acme", DIALECT.format(module="tk_plugin_acme"))
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    with pytest.raises(
        TkError, match=r"mine.py: nothing of a plugin is in it. Looked for: hooks .*; acme \(Files of acme\)"
    ):
        plugins.load(Selection(files=(str(path),)), found=found())
    path.write_text("from tk import component\n@component('reward')\ndef mine(batch): ...\n")
    with pytest.raises(TkError, match=r"mine.py: .* no kind is named 'reward'. Did you mean 'rewards'\?"):
        plugins.load(Selection(files=(str(path),)), found=found())


def test_a_local_file_may_own_a_kind_that_an_installed_plugin_fills(install, found, tmp_path: Path):
    install(
        "tk-plugin-filler",
        "from tk import Spec, hookimpl\n@hookimpl\ndef tk_moods():\n    yield Spec(name='glad', target='x:y')",
    )
    path = tmp_path / "kinds.py"
    path.write_text(
        "from tk import KindSpec, hookimpl\n@hookimpl\ndef tk_kinds():\n"
        "    yield KindSpec(name='moods', singular='mood', summary='Moods.')\n"
    )
    assert plugins.load(Selection(files=(str(path),)), found=found()).names("moods") == ["glad"]


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (None, "tk-plugin-good==1.0"),
        ({"url": "https://example.org/good.whl", "archive_info": {}}, "tk-plugin-good @ https://example.org/good.whl"),
        ({"url": "{folder}", "dir_info": {"editable": True}}, "-e {path}"),
        ({"url": "{folder}", "dir_info": {}}, "tk-plugin-good @ {folder}"),
        (
            {
                "url": "https://example.org/good.git",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "abc"},
                "subdirectory": "plugins/good",
            },
            "tk-plugin-good @ git+https://example.org/good.git@abc#subdirectory=plugins/good",
        ),
    ],
)
def test_manifests_say_where_a_plugin_came_from(written, line, install, found, site: Path, tmp_path: Path):
    folder = tmp_path / "my source"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "tk-plugin-good"\n')

    def placed(text: str) -> str:
        return text.replace("{folder}", folder.as_uri()).replace("{path}", str(folder))

    install("tk-plugin-good", good())
    if written:
        (site / "tk_plugin_good-1.0.dist-info" / "direct_url.json").write_text(placed(json.dumps(written)))
    importlib.invalidate_caches()
    there = Installed()
    lines, run = tmp_path / "plugins.txt", tmp_path / "run.json"
    lines.write_text("\n".join(packages.manifest(there)))
    assert placed(line) in lines.read_text().splitlines()
    run.write_text(json.dumps({"plugins": plugins.load(Selection(), found=found()).manifests()}))
    (from_line,) = [asked for asked in packages.asked_by(lines, there) if asked.name == "tk-plugin-good"]
    assert packages.asked_by(run, there) == [from_line]
    assert packages.different([from_line], there) == []
    folder.rename(tmp_path / "gone")
    if written and written["url"] == "{folder}":
        with pytest.raises(UsageError, match=r"was installed from .*my source, which is not here"):
            packages.asked_by(run, there)
