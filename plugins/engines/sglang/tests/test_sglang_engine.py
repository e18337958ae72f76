"""What SGLang's released package says of arguments and of this machine, in an environment of its own. It needs a GPU to answer."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tk
from tk.errors import TkError, UsageError
from tk_conformance.tiny import tiny_checkpoint
from tk_remote.testing import environment

VERSION = "0.5.23"
READS = (
    "orjson",
    "psutil",
    "pybase64",
    "requests",
    "triton",
    "packaging",
    "pillow",
    "starlette",
    "msgspec",
    "pyzmq",
    "tqdm",
    "ipython",
    "pydantic",
    "aiohttp",
)
"""What its parser of arguments needs to be imported, of all that the package asks for."""


@pytest.fixture(scope="module")
def sglang_python() -> str:
    """The interpreter of an environment that has SGLang without its kernels, and nothing of tk."""
    return environment(
        Path(__file__).parents[4],
        f"sglang-{VERSION}",
        ["install", "torch==2.13.0", "numpy"],
        ["install", "--no-deps", f"sglang=={VERSION}"],
        ["install", *READS],
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)


def ask(checkpoint: Path, engine: Any) -> None:
    with tk.engine(model=str(checkpoint), template="chatml", engine=engine) as made:
        made.generate(["Hello"], max_tokens=4)


def test_where_it_is_not_installed_the_mend_is_named(checkpoint: Path) -> None:
    with pytest.raises(TkError, match=r"engine 'sglang' (?s:.*)cannot be used(?s:.*)say where it is \(python\)"):
        ask(checkpoint, "sglang")


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="here it could begin")
def test_what_is_missing_on_this_machine_is_named(sglang_python: str, checkpoint: Path) -> None:
    args = {"context_length": 64, "enable_deterministic_inference": False, "mem_fraction_static": 0.5}
    with pytest.raises(UsageError, match=rf"SGLang {VERSION} needs a GPU, and torch .* sees none"):
        ask(checkpoint, {"name": "sglang", "python": sglang_python, "args": args})


@pytest.mark.slow
def test_arguments_are_read_by_its_own_parser(sglang_python: str, checkpoint: Path) -> None:
    for args, message in [
        ({"no_bogus": False}, "unrecognized arguments: --no-no-bogus"),
        ({"bogus": 1}, "unrecognized arguments: --bogus 1"),
        ({"tp_size": "two"}, "argument --tp-size.*two"),
    ]:
        with pytest.raises(UsageError, match=rf"engine.args: SGLang's parser says: {message}"):
            ask(checkpoint, {"name": "sglang", "python": sglang_python, "args": args})


@pytest.mark.slow
def test_without_its_kernels_it_says_which_it_lacks(sglang_python: str, checkpoint: Path) -> None:
    with pytest.raises(TkError, match=r"The engine failed: ModuleNotFoundError: No module named"):
        ask(checkpoint, {"name": "sglang", "python": sglang_python, "args": {"device": "cpu"}})
