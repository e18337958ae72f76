"""The kernel alone: installed in an empty environment it has no torch, its command works and its test kit runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"torch", "numpy", "pydantic", "transformers", "click", "peft", "datasets"}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Interpreter of an environment with the kernel, pytest and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    command = [python, "-m", "pip", "install", "-q", "-c", constraints, ROOT / "core", "pytest"]
    subprocess.run(command, check=True, capture_output=True)
    return python


def run(python: Path, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, *args], capture_output=True, text=True, cwd=cwd, timeout=300)


def test_nothing_heavy_is_installed(python):
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json").stdout)
    assert not FORBIDDEN & {row["name"].lower() for row in listed}


@pytest.mark.parametrize(
    "args",
    [("--help",), ("plugins", "list"), ("losses", "list"), ("config", "schema"), ("train", "--help"), ("doctor",)],
)
def test_the_command_works(python, args):
    result = run(python, "-m", "tk", *args)
    assert result.returncode == 0, result.stderr


def test_a_missing_part_is_named_with_its_mend(python, tmp_path):
    result = run(python, "-m", "tk", "train", "--model", "x", cwd=tmp_path)
    assert result.returncode == 2
    assert "no installed family matches 'x'" in result.stderr


def test_a_new_reward_package_passes_its_own_checks_there(python, tmp_path):
    made = run(python, "-m", "tk", "plugins", "new", "reward", "my-reward", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    package = tmp_path / "tk-plugin-my-reward"
    install = run(python, "-m", "pip", "install", "-q", "--no-deps", str(package))
    assert install.returncode == 0, install.stderr
    tests = run(python, "-m", "pytest", "-q", cwd=package)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    listed = run(python, "-m", "tk", "rewards", "list", "--json")
    assert [row["name"] for row in json.loads(listed.stdout)] == ["my-reward"]
