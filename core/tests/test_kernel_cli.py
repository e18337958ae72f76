"""The command line: what it prints, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tk.cli import commands
from tk.cli.run import split_flags
from tk.contracts import TrainPlan

HEAVY = ("torch", "transformers", "datasets", "rich", "pydantic", "numpy", "click", "peft", "ruamel.yaml", "asyncio")


@pytest.mark.parametrize(
    "args", [("--help",), ("plugins", "list"), ("tuners", "list"), ("moods", "list", "--json"), ("--version",)]
)
def test_help_and_lists_import_nothing_heavy(args, tk):
    result = tk(*args, modules=True)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stderr.split("MODULES", 1)[1].split())
    assert not loaded & set(HEAVY)


def test_help_names_commands_kinds_and_what_plugins_add(tk):
    text = tk("--help").stdout
    for word in ("train", "infer", "chat", "export", "losses", "moods", "hello", "Says hello."):
        assert word in text


def test_a_plugins_command_runs(tk):
    assert tk("hello", "--name", "Ada").stdout == "hello Ada\n"


def test_a_plugins_kind_is_listed_and_shown_like_any_other(tk):
    assert "glad" in tk("moods", "list").stdout
    shown = json.loads(tk("moods", "show", "glad", "--json").stdout)
    assert shown["distribution"] == "tk-plugin-words"


def test_options_show_with_type_default_and_meaning(tk):
    text = tk("tuners", "show", "lora").stdout
    assert "rank" in text
    assert "Rank of the matrices." in text
    options = json.loads(tk("tuners", "show", "lora", "--json").stdout)["options"]
    assert options[0] == {
        "name": "rank",
        "type": "int",
        "default": 8,
        "required": False,
        "text": "Rank of the matrices.",
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("trian",), "No such command 'trian'"),
        (("tuners", "show", "lroa"), "Did you mean 'lora'?"),
        (("plugins", "show", "nothing"), "No plugin is named 'nothing'"),
        (("config", "validate", "missing.yaml"), "missing.yaml: no such config file."),
        (("train", "--tuner.rnk", "4"), "Did you mean 'rank'?"),
        (("train", "--tuner", "lroa"), "Did you mean 'lora'?"),
        (("train", "--trian.seed", "4"), "Did you mean 'train'?"),
        (("train", "--nothing"), "No such option"),
        (("train", "-c", "missing.yaml"), "missing.yaml: no such config file."),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(args, message, tk):
    result = tk(*args)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_debug_shows_the_traceback(tk):
    assert "Traceback" in tk("train", "--tuner", "lroa", "--debug").stderr


def test_a_broken_plugin_is_listed_and_check_fails(tk, install):
    install("tk-plugin-bad", "raise SystemExit(5)")
    env = {"TK_PLUGINS": "tk-plugin-words,tk-plugin-bad"}
    listed = tk("plugins", "list", env=env)
    assert listed.returncode == 0
    assert "broken" in listed.stdout
    assert "SystemExit: 5" in listed.stdout
    checked = tk("plugins", "check", "tk-plugin-bad", env=env)
    assert checked.returncode == 1
    assert "SystemExit: 5" in checked.stdout
    assert tk("tuners", "list", env=env).returncode == 0


@pytest.mark.parametrize(
    ("raised", "told"), [("raise NameError('nothing here')", "nothing here"), ("exit(0)", "SystemExit: 0")]
)
def test_check_says_what_is_wrong_with_a_part_whatever_it_raises(raised, told, tk, install):
    source = (
        "from tk import RewardSpec, hookimpl\n@hookimpl\ndef tk_rewards():\n"
        "    return [RewardSpec(name='odd', target='json:loads', config='tk_odd_options:Options')]\n"
    )
    folder = install("tk-plugin-odd", source).parent
    (folder / "tk_odd_options.py").write_text(f"{raised}\n")
    checked = tk("plugins", "check", "tk-plugin-odd", env={"TK_PLUGINS": "tk-plugin-odd"})
    assert checked.returncode == 1
    assert told in checked.stdout
    assert "Traceback" not in checked.stderr


def test_every_kind_word_completes(tk):
    result = tk(env={"_TK_COMPLETE": "complete_bash", "COMP_WORDS": "tk moo", "COMP_CWORD": "1"})
    assert "moods" in result.stdout


def test_flags_are_taken_out_before_parsing():
    flags, rest = split_flags(
        ["--tuner", "lora", "--tuner.rank=4", "--optim.lr", "-1e-5", "--data.packing", "--dry-run", "--a.b", "c", "x"]
    )
    assert flags == [("tuner.rank", "4"), ("optim.lr", "-1e-5"), ("data.packing", "true"), ("a.b", "c")]
    assert rest == ["--tuner", "lora", "--dry-run", "x"]


def test_python_m_tk_is_the_command(tk, site):
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    environ = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run([sys.executable, "-m", "tk", "--version"], capture_output=True, text=True, env=environ)
    assert result.stdout.startswith("tk ")


@pytest.mark.parametrize(("supervised", "told"), [(32.0, ", 32 of them trained"), (8.0, ""), (0.0, "")])
def test_a_plan_tells_the_tokens_that_are_trained_where_the_loss_is_over_tokens(supervised, told, capsys):
    numbers = dict.fromkeys(("rows", "examples", "steps", "batch_size", "accumulation", "world"), 8)
    commands._print_plan(TrainPlan(**numbers, tokens=64, supervised=supervised, skipped={}, parameters=10, trainable=1))
    assert f"tokens           64 an epoch{told}\n" in capsys.readouterr().out
