"""What the released packages of engines that need a GPU say of arguments and of this machine, in environments of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import tk
from tk.errors import TkError, UsageError
from tk_conformance.tiny import tiny_checkpoint
from tk_remote.testing import environment


@dataclass(frozen=True)
class Engine:
    """reads: what its parser of arguments needs to be imported, of all that the package asks for. good: arguments that it
    takes; bad: an integer's name here, and what the parser calls it."""

    name: str
    title: str
    version: str
    reads: Sequence[str]
    good: Mapping[str, Any]
    bad: tuple[str, str]


SGLANG = Engine(
    "sglang",
    "SGLang",
    "0.5.23",
    (
        *("orjson", "psutil", "pybase64", "requests", "triton", "packaging", "pillow", "starlette", "msgspec", "pyzmq"),
        *("tqdm", "ipython", "pydantic", "aiohttp"),
    ),
    {"context_length": 64, "enable_deterministic_inference": False, "mem_fraction_static": 0.5},
    ("tp_size", "--tp-size"),
)
LMDEPLOY = Engine(
    "lmdeploy",
    "LMDeploy",
    "0.18.0",
    ("tqdm", "pydantic", "transformers", "mmengine-lite", "psutil", "pillow", "requests", "pybase64", "shortuuid"),
    {"session_len": 64, "disable_metrics": False, "tp": 1},
    ("tp", "--tp"),
)


@pytest.fixture(scope="module", params=[SGLANG, LMDEPLOY], ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


@pytest.fixture(scope="module")
def python(engine: Engine) -> str:
    """The interpreter of an environment that has the engine without its kernels, and nothing of tk."""
    return environment(
        Path(__file__).parents[1],
        f"{engine.name}-{engine.version}",
        ["install", "torch==2.13.0", "numpy"],
        ["install", "--no-deps", f"{engine.name}=={engine.version}"],
        ["install", *engine.reads],
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)


def ask(checkpoint: Path, engine: Any) -> None:
    with tk.engine(model=str(checkpoint), template="chatml", engine=engine) as made:
        made.generate(["Hello"], max_tokens=4)


def test_where_it_is_not_installed_the_mend_is_named(engine: Engine, checkpoint: Path) -> None:
    with pytest.raises(
        TkError, match=rf"engine '{engine.name}' (?s:.*)cannot be used(?s:.*)say where it is \(python\)"
    ):
        ask(checkpoint, engine.name)


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="here it could begin")
def test_what_is_missing_on_this_machine_is_named(engine: Engine, python: str, checkpoint: Path) -> None:
    needs = rf"{engine.title} {engine.version} needs a GPU, and torch .* sees none"
    with pytest.raises(UsageError, match=needs):
        ask(checkpoint, {"name": engine.name, "python": python, "args": dict(engine.good)})


@pytest.mark.slow
def test_arguments_are_read_by_its_own_parser(engine: Engine, python: str, checkpoint: Path) -> None:
    name, called = engine.bad
    for args, said in (
        ({"no_bogus": False}, "unrecognized arguments: --no-no-bogus"),
        ({"bogus": 1}, "unrecognized arguments: --bogus 1"),
        ({name: "two"}, f"argument {called}.*two"),
    ):
        with pytest.raises(UsageError, match=f"engine.args: {engine.title}'s parser says: {said}"):
            ask(checkpoint, {"name": engine.name, "python": python, "args": args})


@pytest.mark.slow
@pytest.mark.parametrize("engine", [SGLANG], indirect=True)
def test_without_its_kernels_it_says_which_it_lacks(engine: Engine, python: str, checkpoint: Path) -> None:
    with pytest.raises(TkError, match=r"The engine failed: ModuleNotFoundError: No module named"):
        ask(checkpoint, {"name": engine.name, "python": python, "args": {"device": "cpu"}})
