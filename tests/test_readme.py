"""What README and the plugin author's guide show is run as it stands; only the checkpoint's name is exchanged for a tiny one."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tk

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
SMOLLM = "smollm2-135m-instruct"
WAITS = {"chat": ("--prompt", "Hello")}
"""What a command that would ask at the terminal is given."""


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown(text: str) -> list[str]:
    """Lines of a page's sh blocks without comments."""
    lines = [line.partition(" #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


def named(text: str) -> list[str]:
    """Whole commands that stand in a page's running text."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`(tk [^`<>|]+)`", prose)


@pytest.fixture
def here(inputs: Path, squares: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages speak of, and a run in runs/quickstart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copyfile(inputs / "rows.jsonl", "rows.jsonl")
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in squares[:2]))
    return tmp_path


@pytest.fixture
def run(command: Callable[..., Any], inputs: Path) -> Callable[..., Any]:
    """Run a line of a page as it stands, on a tiny model and with short answers."""

    def line(text: str, *more: str) -> Any:
        _, *words = shlex.split(text.replace(SMOLLM, str(inputs / "model")))
        short = ("--sampling.max-tokens", "2") if words[0] in ("chat", "infer") else ()
        done = command(*words, *WAITS.get(words[0], ()), *short, *more)
        assert done.code == 0, f"{text}: {done.err}"
        return done

    return line


def served(text: str) -> None:
    """A server by a line of a page, at a free port, answers, and ends when it is asked to."""
    _, *words = shlex.split(text)
    words[words.index("--port") + 1] = "0"
    with subprocess.Popen([sys.executable, "-m", "tk", *words], stderr=subprocess.PIPE, text=True) as server:
        lines = iter(server.stderr.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r" at (http://\S+);", line)))
        with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as answer:
            assert json.load(answer)["data"][0]["id"] == "quickstart"
        server.terminate()
        assert server.wait(60) == 0


# --- README ----------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_run_in_their_order(run, here, command, inputs):
    quickstart = ("--model", inputs / "model", "--data", "rows.jsonl", "--train.steps", "1")
    assert command("train", *quickstart, "--output", "runs/quickstart").code == 0
    lines = shown(README)
    for line in lines:
        if line.startswith("tk serve "):
            served(line)
        elif line.startswith("tk "):
            run(line)
    assert sum(line.startswith("tk ") for line in lines) == 6
    assert len(Path("answers.jsonl").read_text().splitlines()) == 2
    assert (here / "merged" / "model.safetensors").is_file()
    trained = [path for path in (here / "runs").iterdir() if path.name != "quickstart"]
    assert [path.name.startswith("sft-model-") for path in trained] == [True]


def test_every_other_line_is_a_target_of_the_makefile_or_the_environment():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for line in shown(README):
        first, *words = shlex.split(line)
        assert first in ("tk", "source") or (first == "make" and set(words) <= set(targets)), line


def test_commands_in_the_text_of_the_readme_run(run, here):
    commands = named(README)
    assert {"tk methods list", "tk tuners show lora", "tk train --help"} <= set(commands)
    for text in commands:
        more = ("--model", SMOLLM, "--data", "rows.jsonl") if text.endswith("--dry-run") else ()
        assert run(f"{text} {shlex.join(more)}").out
    assert not (here / "runs").exists()


def test_names_in_the_table_of_the_readme_are_components(command):
    table = [line for line in README.splitlines() if re.match(r"\|.*\| `tk [a-z]+ (list|show)", line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len(rows) == 10
    for _, now, see in rows:
        kind = re.search(r"tk ([a-z]+) ", see)[1]
        listed = {row["name"] for row in json.loads(command(kind, "list", "--json").out)}
        words = {word for word in re.findall(r"`([^`]+)`", now) if not word.startswith("--")}
        assert words <= listed, kind


def test_the_python_of_the_readme_trains(here, inputs):
    (call,) = re.findall(r"`(tk\.train\(.*?\))`", README)
    names = {word.arg: word.value for word in ast.parse(call.replace("…", "None"), mode="eval").body.keywords}
    given = {"model": str(inputs / "model"), "data": "rows.jsonl"}
    values = {name: given[name] if name in given else ast.literal_eval(value) for name, value in names.items()}
    assert set(given) <= set(values)
    assert tk.train(**values, train={"steps": 1}, output="run").steps == 1


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "docs" / "plugins.md", ROOT / "docs" / "architecture.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# --- the plugin author's guide -----------------------------------------------------------------------------------------


@pytest.fixture
def site(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path where packages are installed; what they brought is forgotten afterwards."""
    folder = here / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(here) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_guides_commands_run_in_their_order(run, here, site):
    python = {_first_line(block): block for block in blocks(GUIDE, "python")}
    Path("brevity.py").write_text(python["from tk import component"])
    for line in shown(GUIDE):
        words = shlex.split(line)
        if words[0] == "tk":
            done = run(line)
            if "--rewards" in words:
                assert done.out.count(f"  {words[-1]}: ") == 2
        elif words[:2] == ["pip", "install"]:
            options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
            pip = [sys.executable, "-m", "pip", "install", *options, f"./{words[-1]}"]
            subprocess.run(pip, check=True, capture_output=True)
            importlib.invalidate_caches()
        else:
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)


def test_the_guides_package_is_found_and_its_loss_used(run, here, site, inputs):
    """At gamma 0 the focal loss is the cross entropy, and above it less."""
    texts = {_first_line(block): block for block in blocks(GUIDE, "python")}
    package = site / "acme_tk"
    package.mkdir()
    files = {
        "plugin.py": "from tk import LossSpec, hookimpl",
        "options.py": "from dataclasses import dataclass",
        "losses.py": "from tk.contracts import Stat",
    }
    for name, first in files.items():
        (package / name).write_text(texts[first])
    (declared,) = blocks(GUIDE, "toml")
    info = site / "acme_tk-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(declared.replace("[project.entry-points.tk]", "[tk]").replace('"', ""))
    importlib.invalidate_caches()

    assert "gamma" in run("tk losses show focal").out
    (used,) = [text for text in named(GUIDE) if text.startswith("tk train")]
    common = ("--model", str(inputs / "model"), "--data", "rows.jsonl", "--train.steps", "1", "--optim.lr", "1e-9")
    losses = {
        name: json.loads(run(text, *common, "--output", name, "--json").out)["metrics"]["loss"]
        for name, text in {"one": used, "zero": used.replace("gamma 1", "gamma 0"), "plain": "tk train"}.items()
    }
    assert losses["zero"] == pytest.approx(losses["plain"], rel=1e-6)
    assert 0 < losses["one"] < losses["plain"]


def test_every_python_block_of_the_guide_is_used_above():
    firsts = [_first_line(block) for block in blocks(GUIDE, "python")]
    assert firsts == [
        "from tk import component",
        "from tk import LossSpec, hookimpl",
        "from dataclasses import dataclass",
        "from tk.contracts import Stat",
    ]


def _first_line(block: str) -> str:
    return block.splitlines()[0]
