"""Runs of a part of a model that begins with the weights of another run: what is not trained stays that run's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tk
from tk_conformance.online import PARTS, online_config, online_inputs

Configured = Callable[..., dict[str, Any]]

HEAD = {"name": "full", "train": ["norm"]}
KEEPING = '''
from collections.abc import Iterable

from safetensors.torch import save_file

from tk import EngineSpec, hookimpl
from tk_conformance.online_parts import Recorded


class Keeping(Recorded):
    """Keeps the weights that it was given first."""

    def __init__(self, *, model, folder):
        super().__init__(model=model, folder=folder)
        self.kept = folder.parent.parent / "given.safetensors"

    def update(self, weights, version):
        given = {name: value.clone() for name, value in weights}
        if not self.versions:
            save_file(given, self.kept)
        super().update((), version)


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(name="keeping", target=Keeping, supports=("weight-update",), summary="Keeps what it was given.")
'''


def _final(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _trained_apart(configured: Configured, output: Path, stop: int, **train: Any) -> dict[str, Any]:
    """Only the last norm is trained; SIGTERM comes after the step `stop`."""
    return configured(output, tuner=HEAD, train=train, callbacks={"signal-at": {"step": stop}})


@pytest.fixture
def first(configured: Configured, tmp_path: Path) -> str:
    """A run that has trained all of the model."""
    tk.train(configured(tmp_path / "first", tuner="full", train={"steps": 2}))
    return str(tmp_path / "first")


def test_a_run_that_goes_on_keeps_the_frozen_weights_that_it_began_with(
    configured: Configured, tmp_path: Path, first: str
) -> None:
    tk.train(_trained_apart(configured, tmp_path / "whole", 99, start_from=first))
    part = _trained_apart(configured, tmp_path / "part", 2, start_from=first)
    assert tk.train(part).steps == 3
    tk.train({**part, "train": {**part["train"], "resume": True}})
    assert _same(_final(tmp_path / "part"), _final(tmp_path / "whole"))
    frozen = [name for name in _final(Path(first)) if name != "model.norm.weight"]
    assert all(torch.equal(_final(tmp_path / "part")[name], _final(Path(first))[name]) for name in frozen)


def test_the_checkpoint_of_such_a_run_stands_on_what_that_run_began_with(
    configured: Configured, tmp_path: Path, first: str
) -> None:
    tk.train(_trained_apart(configured, tmp_path / "second", 2, start_from=first))
    held = load_file(tmp_path / "second/checkpoints/step-00000003/weights.safetensors")
    third = _trained_apart(configured, tmp_path / "third", 99, start_from=str(tmp_path / "second"), steps=1)
    third["optim"] = {"name": "sgd", "lr": 1e-30}
    tk.train(third)
    wanted = _final(Path(first)) | {"model.norm.weight": next(iter(held.values()))}
    assert _same(_final(tmp_path / "third"), wanted)


def test_an_engine_with_weights_of_its_own_is_given_them(tmp_path: Path) -> None:
    inputs = online_inputs(tmp_path / "inputs", prompts=8)
    tk.train(online_config(inputs, tmp_path / "first", "grpo", train={"steps": 2}))
    (tmp_path / "keeping.py").write_text(KEEPING)
    second = online_config(
        inputs,
        tmp_path / "second",
        "grpo",
        tuner=HEAD,
        engine="keeping",
        train={"steps": 1, "start_from": str(tmp_path / "first")},
        plugins={"files": [str(PARTS), str(tmp_path / "keeping.py")]},
    )
    tk.train(second)
    given, wanted = load_file(tmp_path / "given.safetensors"), _final(tmp_path / "first")
    assert _same({name: given[name] for name in wanted}, wanted)
