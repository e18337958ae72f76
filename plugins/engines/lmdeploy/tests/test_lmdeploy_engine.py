"""What LMDeploy's released package says of arguments and of this machine, in an environment of its own. It needs a GPU to answer."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tk
from tk.errors import TkError, UsageError
from tk_conformance.tiny import tiny_checkpoint
from tk_remote.testing import environment

VERSION = "0.18.0"
READS = ("tqdm", "pydantic", "transformers", "mmengine-lite", "psutil", "pillow", "requests", "pybase64", "shortuuid")
"""What its parser of arguments needs to be imported, of all that the package asks for."""


@pytest.fixture(scope="module")
def lmdeploy_python() -> str:
    """The interpreter of an environment that has LMDeploy without its kernels, and nothing of tk."""
    return environment(
        Path(__file__).parents[4],
        f"lmdeploy-{VERSION}",
        ["install", "torch==2.13.0", "numpy"],
        ["install", "--no-deps", f"lmdeploy=={VERSION}"],
        ["install", *READS],
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)


def ask(checkpoint: Path, engine: Any) -> None:
    with tk.engine(model=str(checkpoint), template="chatml", engine=engine) as made:
        made.generate(["Hello"], max_tokens=4)


def test_where_it_is_not_installed_the_mend_is_named(checkpoint: Path) -> None:
    with pytest.raises(TkError, match=r"engine 'lmdeploy' (?s:.*)cannot be used(?s:.*)say where it is \(python\)"):
        ask(checkpoint, "lmdeploy")


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="here it could begin")
def test_what_is_missing_on_this_machine_is_named(lmdeploy_python: str, checkpoint: Path) -> None:
    args = {"session_len": 64, "disable_metrics": False, "tp": 1}
    with pytest.raises(UsageError, match=rf"LMDeploy {VERSION} needs a GPU, and torch .* sees none"):
        ask(checkpoint, {"name": "lmdeploy", "python": lmdeploy_python, "args": args})


@pytest.mark.slow
def test_arguments_are_read_by_its_own_parser(lmdeploy_python: str, checkpoint: Path) -> None:
    for args, message in [
        ({"no_bogus": False}, "unrecognized arguments: --no-no-bogus"),
        ({"bogus": 1}, "unrecognized arguments: --bogus 1"),
        ({"tp": "two"}, "argument --tp.*two"),
    ]:
        with pytest.raises(UsageError, match=rf"engine.args: LMDeploy's parser says: {message}"):
            ask(checkpoint, {"name": "lmdeploy", "python": lmdeploy_python, "args": args})
