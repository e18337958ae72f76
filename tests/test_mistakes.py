"""What `tk train` says to mistakes: one error that names the place and the mend, an exit code, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

USAGE, FAILURE = 2, 1

SHORT = ("--tuner.rank", "2", "--train.steps", "2", "--report.html", "false", "--report.plot", "false")

ROOMLESS = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && "$@"; code=$?; find . -mindepth 1 | sort; exit $code'
"""Runs a command in a small file system of its own, and lists what is left in it."""


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `model` and `rows.jsonl`."""
    (tmp_path / "model").symlink_to(inputs / "model")
    shutil.copyfile(inputs / "rows.jsonl", tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(command: Callable[..., Any], here: Path) -> Callable[..., str]:
    """Run `tk train`, check exit code, that there is one error and nothing else, and that nothing was written."""

    def train(code: int, *args: str) -> str:
        before = sorted(here.rglob("*"))
        done = command("train", "--output", "run", *args)
        assert done.code == code, done.err
        assert sorted(here.rglob("*")) == before
        assert done.out == ""
        return one_error(done.err)

    return train


def one_error(text: str) -> str:
    """The message of the one error in what a command wrote to standard error."""
    lines = text.strip().splitlines()
    assert "Traceback" not in text
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], text
    return lines[-1].removeprefix("Error: ")


def data(here: Path, content: str | bytes, name: str = "bad.jsonl") -> tuple[str, ...]:
    """Flags of a run on a file with this content."""
    (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return ("--model", "model", "--data", name, *SHORT)


def row(*messages: dict[str, Any]) -> str:
    return json.dumps({"messages": messages}) + "\n"


QUESTION = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "Because."}
GOOD = row(QUESTION, ANSWER)


# --- the command and its config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--trian.steps", "2"), "trian: there is no such section. Did you mean 'train'? (set by --trian.steps)"),
        (("--train.stps", "2"), "train.stps: there is no such option. Did you mean 'steps'?"),
        (("--tunr", "lora"), "tunr: there is no such section. Did you mean 'tuner'?"),
        (("--dry-rn",), "No such option: --dry-rn (Possible options: --dry-run, --run)"),
        (("--tuner", "lroa"), "tuner.name: No tuner is named 'lroa'. Did you mean 'lora'? (set by --tuner)"),
        (("--losses", "causl-lm"), "losses.causl-lm: No loss is named 'causl-lm'. Did you mean 'causal-lm'?"),
        (("--losses.dft.weigth", "2"), "losses.dft.weigth: there is no such option. Did you mean 'weight'?"),
        (("--data.sources.a.pth", "x"), "data.sources.a.pth: there is no such option. Did you mean 'path'?"),
        (("--train.steps", "two"), "train.steps: Expected int | null, got str: 'two' is not int|none."),
        (("--train.steps", "0"), "train.steps: Expected int >= 1: '0' is not int|none."),
        (("--tuner.rank", "0"), "tuner.rank:"),
        (("extra",), "Got unexpected extra argument(s) (extra)"),
    ],
)
def test_a_misspelled_flag_value_or_name_is_told_with_the_nearest(refused, flags, message):
    assert message in refused(USAGE, "--model", "model", "--data", "rows.jsonl", *flags)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("trian: {steps: 2}", "trian: there is no such section. Did you mean 'train'? (set by run.yaml:3)"),
        (
            "tuner:\n  name: lora\n  rnk: 2",
            "tuner.rnk: there is no such option. Did you mean 'rank'? (set by run.yaml:5)",
        ),
        ("eval: {sources: {a: {pth: x}}}", "eval.sources.a.pth: there is no such option. Did you mean 'path'?"),
        ("callbacks: {early-stoping: {}}", "callbacks.early-stoping: No callback is named 'early-stoping'."),
        ("optim: {name: adamw, betas: [1]}", "optim.betas: "),
        ("train: {steps: 2, steps: 3}", "run.yaml:3: found duplicate key"),
        ("train: [2", "run.yaml:"),
        ("- train", "run.yaml:"),
    ],
)
def test_a_mistake_in_a_config_file_is_told_with_file_and_line(refused, here, yaml, message):
    (here / "run.yaml").write_text(f"model: model\ndata: rows.jsonl\n{yaml}\n")
    assert refused(USAGE, "--config", "run.yaml").startswith(message.split(":")[0])
    assert message in refused(USAGE, "--config", "run.yaml")


def test_a_plugin_file_that_is_not_there_is_named(refused):
    message = refused(USAGE, "--model", "model", "--data", "rows.jsonl", "--plugin", "no.py")
    assert message == "plugins.files: there is no file no.py."


def test_what_is_not_named_is_asked_for(refused):
    assert refused(USAGE, "--data", "rows.jsonl").endswith("--model NAME (see `tk models list`).")
    assert refused(USAGE, "--model", "model") == "data.sources: no data is named: --data FILE."


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "bad.jsonl: the file is empty."),
        ("\n \n", "bad.jsonl:1: the file holds no rows, only blank lines."),
        (
            GOOD.encode() + b"\0\1\2\xff" * 99,
            "bad.jsonl:2: a binary file (it holds NUL bytes), where text is expected.",
        ),
        (GOOD + "{'messages': []}\n", "bad.jsonl:2: invalid JSON at column 2: Expecting property name"),
        (GOOD + "[1, 2]\n", "bad.jsonl:2: a row must be an object {…} of columns, this one is a list."),
        (GOOD + GOOD + row(QUESTION), "bad.jsonl:3: no token is trained: the row needs an answer"),
        (GOOD + row({"role": "user"}, ANSWER), "bad.jsonl:2: messages[0] (user) has no content"),
        (GOOD + row(), "bad.jsonl:2: messages is empty"),
        (GOOD + row({"role": "usr", "content": "?"}, ANSWER), "bad.jsonl:2: messages[0]"),
        (row({"role": "user"}), "bad.jsonl:1: messages[0] (user) has no content"),
    ],
)
def test_a_bad_row_stops_the_run_before_it_begins(refused, here, content, message):
    assert message in refused(FAILURE, *data(here, content))


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("no.jsonl", FAILURE, "no.jsonl: no such file."),
        ("no-such-set", USAGE, "no-such-set: there is no such file, and no data set of that name."),
        ("chaterbot", USAGE, "Did you mean 'chatterbot'?"),
        (".", FAILURE, ".: is a folder, not a file"),
        ("rows.dat", USAGE, "rows.dat: no reader for such a file. Known endings: .csv, .json, .jsonl"),
    ],
)
def test_a_missing_or_unknown_file_is_named(refused, here, name, code, message):
    (here / "rows.dat").write_bytes(b"?")
    assert message in refused(code, "--model", "model", "--data", name, *SHORT)


@pytest.mark.parametrize("name", ["bad.parquet", "bad.csv", "bad.json"])
def test_a_binary_file_is_told_for_every_ending(refused, here, name):
    flags = data(here, bytes(range(256)) * 4, name)
    assert refused(FAILURE, *flags).startswith(name)


def test_columns_that_fit_no_format_are_told_with_those_that_are_known(refused, here):
    message = refused(USAGE, *data(here, '{"q": "?", "a": "!"}\n'))
    assert message.startswith("bad.jsonl:1: no format fits the columns (q, a). Rename columns")


def test_a_limit_that_no_row_keeps_is_told_with_the_shortest_row(refused, here):
    flags = data(here, row(QUESTION, {"role": "assistant", "content": "Because it is."}) + GOOD)
    message = refused(FAILURE, *flags, "--data.max-length", "3", "--data.truncation", "drop")
    assert "every one is longer than max_length 3. The shortest has" in message
    assert "tokens (bad.jsonl:2): set data.max_length to that or more" in message
    assert "bad.jsonl:1: " in refused(FAILURE, *flags, "--data.max-length", "3")


def test_holding_out_everything_is_told(refused):
    message = refused(FAILURE, "--model", "model", "--data", "rows.jsonl", *SHORT, "--eval.hold-out", "24")
    assert message == "eval.hold_out takes 24 rows, and the training data has 24: nothing is left to train on."


def test_skipped_rows_are_counted_and_written_aside(command, here):
    bad = [row({"role": "user"}, ANSWER), "not json\n", row(QUESTION)]
    flags = data(here, bad[0] + GOOD * 3 + bad[1] + GOOD + bad[2])
    done = command("train", "--output", "run", *flags, "--data.on-error", "skip")
    assert done.code == 0, done.err
    run = json.loads(Path("run/run.json").read_text())
    (source,) = run["data"]
    assert (source["read"], source["used"], sum(source["skipped"].values())) == (7, 4, 3)
    assert source["skipped"]["messages[N] (user) has no content"] == 1
    assert run["rejects"] == "run/skipped.jsonl"
    aside = [json.loads(line) for line in Path("run/skipped.jsonl").read_text().splitlines()]
    assert [r["origin"] for r in aside] == ["bad.jsonl:1", "bad.jsonl:5", "bad.jsonl:7"]
    assert aside[2]["row"] == json.loads(bad[2])
    planned = command("train", "--output", "other", *flags, "--data.on-error", "skip", "--dry-run", "--json")
    assert json.loads(planned.out)["skipped"] == run["plan"]["skipped"]
    assert not Path("other").exists()


def test_skipping_every_row_leaves_nothing(refused, here):
    message = refused(FAILURE, *data(here, row(QUESTION) * 2 + "[]\n"), "--data.on-error", "skip")
    assert message.startswith("bad.jsonl: no row to train on (2 × no token is trained")


# --- checkpoint and output -------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_none_is_named(refused, here):
    shutil.copytree(here / "model", here / "other")
    (here / "other" / "config.json").unlink()
    flags = ("--data", "rows.jsonl", *SHORT)
    assert refused(FAILURE, "--model", "other", *flags).startswith("other has no config.json")
    (here / "other" / "config.json").write_text("{")
    assert refused(FAILURE, "--model", "other", *flags).startswith("other/config.json: not valid JSON")
    (here / "other" / "config.json").write_text("{}")
    assert "names no model_type" in refused(FAILURE, "--model", "other", *flags)
    shutil.copyfile(here / "model" / "config.json", here / "other" / "config.json")
    (here / "other" / "model.safetensors").write_bytes(b"\0" * 64)
    assert "The weights in other cannot be read" in refused(FAILURE, "--model", "other", *flags)
    (here / "other" / "model.safetensors").unlink()
    assert "other has no *.safetensors" in refused(FAILURE, "--model", "other", *flags)
    assert refused(USAGE, "--model", "./nothing", *flags) == "There is no folder ./nothing."


def test_a_folder_with_another_run_is_left_as_it_is(command, refused, here):
    flags = ("--model", "model", "--data", "rows.jsonl", *SHORT)
    assert command("train", "--output", "run", *flags).code == 0
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    message = refused(USAGE, *flags)
    assert message.startswith("output.dir: run holds another run")
    assert all(word in message for word in ("--resume", "--output.overwrite", "--output"))
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}


def test_going_on_without_a_run_is_told(command):
    done = command("train", "--resume")
    assert (done.code, one_error(done.err)) == (2, "--resume: no run is named to go on with: --run FOLDER.")


def test_an_output_that_is_a_file_is_told(refused, here):
    (here / "run").write_text("mine")
    assert refused(USAGE, "--model", "model", "--data", "rows.jsonl") == "output.dir: run is a file."


# --- a full disk -----------------------------------------------------------------------------------------------------


def _in_little_room(size: str, folder: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """`tk` with `folder` on a file system of that size. Skips where none can be mounted."""
    alone = ["unshare", "--map-root-user", "--mount"]
    folder.mkdir()
    try:
        subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system of a given size can be mounted here")
    script = [*alone, "bash", "-c", f"cd {folder.parent}; {ROOMLESS.replace('find .', f'find {folder.name}')}", "bash"]
    return subprocess.run(
        [*script, size, folder, sys.executable, "-m", "tk", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    ("size", "message", "left"),
    [
        ("4k", "run.json: cannot be written", set()),
        (
            "64k",
            "checkpoints/step-00000002: cannot be written",
            {"checkpoints", "config.yaml", "log.jsonl", "run.json"},
        ),
    ],
)
def test_a_full_disk_is_one_error(here, size, message, left):
    flags = ("--model", "model", "--data", "rows.jsonl", *SHORT)
    done = _in_little_room(size, here / "disk", "train", "--output", "disk/run", *flags)
    assert done.returncode == FAILURE, done.stderr
    said = one_error(done.stderr)
    assert said.startswith(f"disk/run/{message}")
    assert "No space left on device" in said
    assert {line.removeprefix("disk/run/") for line in done.stdout.splitlines()} - {"disk/run"} == left


@pytest.mark.parametrize(
    "size", [pytest.param("12k", marks=pytest.mark.slow), "20k", pytest.param("24k", marks=pytest.mark.slow)]
)
def test_a_full_disk_is_one_error_with_a_tracker_too(here, size):
    flags = ("--model", "model", "--data", "rows.jsonl", *SHORT, "--trackers", "tensorboard")
    done = _in_little_room(size, here / "disk", "train", "--output", "disk/run", *flags)
    assert done.returncode == FAILURE, done.stderr
    assert one_error(done.stderr).partition(": ")[2].startswith("cannot be written: ")
    assert "disk/run/final" not in done.stdout


@pytest.mark.slow
def test_a_full_disk_is_one_error_for_rows_that_are_written_aside(here):
    flags = data(here, (row(QUESTION) + GOOD) * 99)
    done = _in_little_room("4k", here / "disk", "train", "--output", "disk/run", *flags, "--data.on-error", "skip")
    assert done.returncode == FAILURE
    assert one_error(done.stderr) == "disk/run/skipped.jsonl: cannot be written: No space left on device."
    assert not done.stdout.split()


def test_a_full_disk_is_one_error_for_answers(here):
    args = (
        "infer",
        "--model",
        "model",
        "--input",
        "rows.jsonl",
        "--sampling.max-tokens",
        "32",
        "--to",
        "disk/to.jsonl",
    )
    done = _in_little_room("4k", here / "disk", *args)
    assert done.returncode == FAILURE
    assert one_error(done.stderr) == "disk/to.jsonl: cannot be written: No space left on device."
    assert done.stdout == ""


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code"),
    [(("--tunr", "lora"), USAGE), (("--data", "no.jsonl"), FAILURE), (("--debug", "--data", "no.jsonl"), 1)],
)
def test_exit_codes_are_those_of_the_process(here, args, code):
    command = [sys.executable, "-m", "tk", "train", "--model", "model", "--output", "run", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert ("Traceback" in done.stderr) == ("--debug" in args)
    assert not (here / "run").exists()
