"""Packages of strangers: the wheels of examples/plugins, installed into an environment of their own, work by name.

That environment sees this one's packages and has nothing changed in them; its `tk` is the kernel's own wheel.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.parent for path in (ROOT / "examples" / "plugins").glob("*/pyproject.toml"))

QUICK = ("acme-tk-poly", "acme-tk-length")
"""Packages whose own tests are run by default."""

COMPONENTS = [
    ("models", "acme", "acme-tk-model"),
    ("models", "internvl", "acme-tk-internvl"),
    ("templates", "acme-chat", "acme-tk-model"),
    ("losses", "poly-1", "acme-tk-poly"),
    ("losses", "discopop", "acme-tk-discopop"),
    ("methods", "balanced-sft", "acme-tk-balanced-sft"),
    ("advantages", "opo", "acme-tk-opo"),
    ("methods", "raft", "acme-tk-raft"),
    ("trainers", "pipeline", "acme-tk-pipeline"),
    ("strategies", "pipeline", "acme-tk-pipeline"),
    ("rewards", "length", "acme-tk-length"),
    ("rewards", "remote", "acme-tk-remote"),
    ("tuners", "bitfit", "acme-tk-bitfit"),
    ("callbacks", "loss-spike", "acme-tk-loss-spike"),
    ("length-penalties", "overlong", "acme-tk-length-penalties"),
    ("length-penalties", "group-range", "acme-tk-length-penalties"),
    ("commands", "lengths", "acme-tk-length-penalties"),
]

MAKE_CHECKPOINT = """
import sys
from pathlib import Path
from acme_tk_model.architecture import register
from tk_conformance.tiny import tiny_checkpoint
register()
tiny_checkpoint(Path(sys.argv[1]), "acme", vocab=300)
"""

COMPARE_LOGITS = """
import sys, torch
from acme_tk_model.architecture import register
from transformers import AutoModelForCausalLM
register()
ids = torch.arange(3, 40)[None]
one, other, base = (AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits for folder in sys.argv[1:])
assert torch.equal(one, other) and not torch.equal(one, base)
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment; `run` runs one of its programs and fails with what it printed."""

    folder: Path

    def run(self, program: str, *arguments: str | Path, cwd: Path | None = None, code: int = 0) -> str:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("TK_", "PYTEST", "PYTHONPATH"))}
        command = [self.folder / "bin" / program, *arguments]
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        shown = " ".join(map(str, arguments))
        assert done.returncode == code, f"{program} {shown}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str | Path) -> list[dict]:
        return json.loads(self.run("tk", *arguments, "--json"))


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Sequence[Path]:
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT / "core", *EXAMPLES)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def environment(wheels, tmp_path_factory) -> Environment:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    parent = sysconfig.get_paths()["purelib"]
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (inside / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    pip("--python", folder / "bin" / "python", "install", "-q", "--no-index", "--no-deps", *wheels)
    return Environment(folder)


@pytest.fixture(scope="session")
def checkpoint(environment, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    environment.run("python", "-c", MAKE_CHECKPOINT, folder)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    talks = [(f"What is {n} + {n}?", f"It is {2 * n}." + " Indeed so." * (n % 5)) for n in range(24)]
    lines = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in talks
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def run(environment, checkpoint, rows, tmp_path_factory) -> Path:
    """A run whose parts are all strangers', but for the trainer and what goes with it. The guard ends it early."""
    output = tmp_path_factory.mktemp("runs") / "acme"
    choose = shlex.split("--method balanced-sft --losses poly-1 --tuner bitfit --callbacks loss-spike")
    options = shlex.split(
        "--losses.poly-1.epsilon 0.5 --method.by-answer 0.25 --callbacks.loss-spike.factor 1.0001 "
        "--callbacks.loss-spike.window 1 --callbacks.loss-spike.patience 0 "
        "--train.steps 20 --train.batch-size 2 --train.micro-batch-size 1 --optim.lr 1e-3"
    )
    environment.run("tk", "train", "--model", checkpoint, "--data", rows, "--output", output, *choose, *options)
    return output


def tensors(folder: Path) -> dict:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def test_each_wheel_holds_its_package_alone(wheels):
    names = {wheel.name.partition("-")[0]: zipfile.ZipFile(wheel).namelist() for wheel in wheels}
    assert len(names) == len(EXAMPLES) + 1
    for package, files in names.items():
        tops = {name.partition("/")[0] for name in files if ".dist-info/" not in name}
        assert tops == {"tk" if package == "tk_kernel" else package}


def test_everything_else_is_where_it_was(environment):
    script = (
        "import json, importlib.util as u; names = ['torch', 'transformers', 'tk_auto', 'tk_sft'];"
        "print(json.dumps([u.find_spec(name).origin for name in names]))"
    )
    theirs = json.loads(environment.run("python", "-c", script))
    ours = json.loads(subprocess.check_output([sys.executable, "-c", script], text=True))
    assert theirs == ours


@pytest.mark.parametrize(("kind", "name", "distribution"), COMPONENTS)
def test_a_component_is_listed_and_shown_by_name(kind, name, distribution, environment):
    (found,) = [row for row in environment.json(kind, "list") if row["name"] == name]
    assert found["distribution"] == distribution
    assert found["summary"]
    shown = environment.json(kind, "show", name)
    assert all(option["text"] for option in shown["options"])


def test_no_plugin_is_broken_or_warned_about(environment):
    rows = {row["distribution"]: row for row in environment.json("plugins", "list")}
    for folder in EXAMPLES:
        assert rows[folder.name]["status"] == "ok"
        assert not rows[folder.name].get("notes")


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, id=folder.name, marks=[] if folder.name in QUICK else pytest.mark.slow)
        for folder in EXAMPLES
    ],
)
def test_a_packages_own_tests_pass(folder, environment, tmp_path):
    shutil.copytree(folder, tmp_path / folder.name)
    environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / folder.name)


def test_a_run_is_made_of_them(run):
    record = json.loads((run / "run.json").read_text())
    parts = {part["part"]: (part["name"], part["distribution"]) for part in record["parts"]}
    assert parts["model"] == ("acme", "acme-tk-model")
    assert parts["template"] == ("acme-chat", "acme-tk-model")
    assert parts["method"] == ("balanced-sft", "acme-tk-balanced-sft")
    assert parts["losses.poly-1"] == ("poly-1", "acme-tk-poly")
    assert parts["tuner"] == ("bitfit", "acme-tk-bitfit")
    assert parts["callbacks.loss-spike"] == ("loss-spike", "acme-tk-loss-spike")
    assert {(p["distribution"], p["version"]) for p in record["plugins"]} >= {(f.name, "1.0.0") for f in EXAMPLES}


def test_its_callback_ended_it(run):
    record = json.loads((run / "run.json").read_text())
    assert record["stopped"].startswith("loss-spike: 1 in a row")
    assert record["result"]["steps"] < 20


def test_its_method_reports_both_terms(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained
    for line in trained:
        objective = 0.75 * line["poly-1"] + 0.25 * line["poly-1/by-answer"]
        assert line["loss"] == pytest.approx(objective, rel=1e-5)


def test_its_tuner_trained_biases_alone(run, checkpoint):
    before, after = tensors(checkpoint), tensors(run / "final")
    assert set(before) == set(after)
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved
    assert all(name.endswith(".bias") for name in moved)


def test_its_model_is_exported_plainly(run, checkpoint, environment, tmp_path):
    environment.run("tk", "export", "--run", run, "--to", tmp_path / "merged")
    assert set(tensors(tmp_path / "merged")) == set(tensors(checkpoint))
    environment.run("python", "-c", COMPARE_LOGITS, tmp_path / "merged", run / "final", checkpoint)


def test_answers_are_rewarded_and_measured(run, rows, environment, tmp_path):
    answers = tmp_path / "answers.jsonl"
    reward = shlex.split("--rewards length --rewards.length.budget 4 --rewards.length.slack 8")
    sampling = shlex.split("--sampling.max-tokens 8 --sampling.n 2 --sampling.temperature 1 --sampling.seed 1")
    environment.run("tk", "infer", "--run", run, "--input", rows, "--to", answers, *reward, *sampling)
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(found) == 48
    for row in found:
        assert row["rewards"]["length"] == pytest.approx(min(1.0, 1 - (row["tokens"] - 4) / 8))

    config = tmp_path / "penalty.yaml"
    config.write_text("penalty: {name: overlong, limit: 2, margin: 12}\n")
    printed = environment.run("tk", "lengths", answers, "-c", config).splitlines()
    values = [float(line.split()[0]) for line in printed]
    assert values == pytest.approx([-max(0, row["tokens"] - 2) / 12 for row in found], abs=1e-4)


def test_the_section_of_a_new_kind_is_config_like_any_other(environment):
    text = environment.run("tk", "train", "--penalty", "overlong", "--help")
    assert "--penalty.limit" in text
    assert "Penalties on the length of answers." in text
    assert "length-penalties" in environment.run("tk", "--help")
    schema = json.loads(environment.run("tk", "config", "schema"))
    assert "penalty" in schema["properties"]
    shown = environment.json("train", "--penalty.limit", "7", "--print-config")
    assert {row["path"]: row["value"] for row in shown}["penalty.limit"] == 7


def test_what_is_wrong_with_a_new_kinds_section_is_said(environment, checkpoint, rows):
    command = ("train", "--model", checkpoint, "--data", rows, "--dry-run")
    environment.run("tk", *command, "--penalty", "overlang", code=2)
    environment.run("tk", *command, "--penalty.limmit", "7", code=2)
    environment.run("tk", *command, "--penalty.margin", "0", code=2)
