"""The memory that a plan tells: what it is made of, and that it is what a run takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tk
from tk.contracts import Memory
from tk_conformance.tiny import tiny_checkpoint

MIB = 2**20
Planned = Callable[..., Memory]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tensors stand out against the noise of an allocator, and rows of two lengths."""
    made = tmp_path_factory.mktemp("memory")
    tiny_checkpoint(made / "model", layers=4, hidden=256, vocab=300, max_position_embeddings=2048)
    said = [("Why? " * (6 if i % 7 else 60), "Because. " * (8 if i % 5 else 40)) for i in range(16)]
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in said
    ]
    pairs = [{"prompt": question, "chosen": answer, "rejected": answer[:20]} for question, answer in said]
    for name, some in (("rows", rows), ("pairs", pairs)):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return made


@pytest.fixture
def configured(folder: Path) -> Callable[..., dict[str, Any]]:
    def config(rows: str = "rows", **sections: Any) -> dict[str, Any]:
        train = {"batch_size": 8, "micro_batch_size": 4, **sections.pop("train", {})}
        base = {"model": str(folder / "model"), "data": str(folder / f"{rows}.jsonl"), "tuner": "full"}
        return {**base, "train": train, "report": {"html": False, "plot": False}, **sections}

    return config


@pytest.fixture
def planned(configured: Callable[..., dict[str, Any]]) -> Planned:
    def plan(*rows: str, **sections: Any) -> Memory:
        found = tk.plan(configured(*rows, **sections))
        assert found.memory is not None
        assert found.memory.complete, found.notes
        return found.memory

    return plan


def size(folder: Path) -> int:
    return (folder / "model" / "model.safetensors").stat().st_size


def test_parts_are_those_of_the_run(planned: Planned, folder: Path) -> None:
    memory = planned()
    assert memory.moment == "training step"
    assert memory.weights == pytest.approx(size(folder), rel=0.01)
    assert memory.optimizer == pytest.approx(2 * memory.weights, rel=0.01)
    assert 0 <= memory.gradients <= memory.weights
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.other)
    assert memory.total == sum(parts)
    assert memory.other > 100 * MIB


@pytest.mark.slow
def test_options_that_save_memory_are_seen_to(planned: Planned, folder: Path) -> None:
    full = planned()
    assert planned(train={"gradient_checkpointing": True}).activations < 0.7 * full.activations
    assert planned(train={"micro_batch_size": 1}).activations < 0.5 * full.activations
    assert planned(optim="adafactor").optimizer < 0.05 * full.optimizer
    assert planned(optim="sgd").optimizer == 0
    lora = planned(tuner={"name": "lora", "rank": 4})
    assert lora.optimizer < 0.1 * full.optimizer
    assert lora.weights > full.weights
    bf16 = planned(model={"name": str(folder / "model"), "dtype": "bf16"})
    assert bf16.weights == pytest.approx(full.weights / 2, rel=0.01)
    assert planned(model={"name": str(folder / "model"), "attention": "eager"}).activations > full.activations


def test_a_copy_as_reference_counts_until_it_is_let_go(planned: Planned, folder: Path) -> None:
    pairs = planned("pairs", method="dpo")
    assert pairs.weights == pytest.approx(2 * size(folder), rel=0.01)
    before = planned("pairs", method={"name": "dpo", "precompute_reference": True})
    assert before.weights == pytest.approx(size(folder), rel=0.01)
    adapter = planned("pairs", method="dpo", tuner={"name": "lora", "rank": 4})
    assert adapter.weights < 1.2 * size(folder)


@pytest.mark.parametrize(
    "sections",
    [
        {"method": "grpo", "rewards": "format", "sampling": {"n": 4, "max_tokens": 64}},
        *(
            pytest.param(
                {"method": {"name": "ppo", "critic": critic}, "rewards": "format", "sampling": {"max_tokens": 64}},
                marks=pytest.mark.slow,
            )
            for critic in ("own", "shared")
        ),
    ],
)
def test_methods_that_generate_are_told_with_their_longest_answers(
    planned: Planned, folder: Path, sections: dict[str, Any]
) -> None:
    short = planned(**sections)
    longer = planned(**{**sections, "sampling": {**sections["sampling"], "max_tokens": 512}})
    assert longer.activations > 2 * short.activations
    own = sections["method"] != "grpo" and sections["method"]["critic"] == "own"
    assert short.weights > (1.7 if own else 0.99) * size(folder)


def test_the_processes_of_a_launcher_are_planned(configured: Callable[..., dict[str, Any]], folder: Path) -> None:
    launcher = {"name": "local", "processes": 4}
    spread = tk.plan(configured(strategy="fsdp", launcher=launcher))
    assert (spread.world, spread.accumulation) == (4, 1)
    assert spread.memory is not None
    assert spread.memory.optimizer == pytest.approx(2 * size(folder) / 4, rel=0.01)
    whole = tk.plan(configured(launcher=launcher))
    assert whole.memory is not None
    assert (whole.world, whole.memory.gradients) == (4, pytest.approx(size(folder), rel=0.01))


SILENT = """
from tk import StrategySpec, hookimpl
from tk_parallel.strategy import TorchStrategy

class Silent(TorchStrategy):
    def __init__(self):
        super().__init__(60)

    def spread(self, module, precision):
        return module

@hookimpl
def tk_strategies():
    yield StrategySpec(name="silent", target=Silent, summary="Shards.", supports=("sharding",))
"""


def test_a_strategy_that_does_not_tell_what_it_shards_is_told_of(
    configured: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    plugins = {"files": [str(tmp_path / "silent.py")]}
    found = tk.plan(configured(strategy="silent", launcher={"processes": 4}, plugins=plugins))
    assert [note for note in found.notes if "strategy silent does not tell" in note]


OPTIMIZER = """
import torch
from tk import OptimizerSpec, hookimpl

class Numbers(torch.optim.AdamW):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.detach().numpy()
        super().step(closure)

class Factory:
    def __call__(self, groups):
        return Numbers([{"params": list(group.parameters)} for group in groups])

@hookimpl
def tk_optimizers():
    yield OptimizerSpec(name="numbers", target=Factory, summary="Needs numbers.")
"""


def test_an_optimizer_that_needs_numbers_is_tried_on_a_matrix(planned: Planned, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "numbers.py").write_text(OPTIMIZER)
    memory = planned(optim="numbers", plugins={"files": [str(tmp_path / "numbers.py")]})
    assert memory.optimizer == pytest.approx(2 * size(folder), rel=0.01)


LOSS = """
import torch
from tk import LossSpec, hookimpl
from tk.contracts import Stat

class Picky:
    unit = "token"
    wants = (Stat("logps"),)

    def __call__(self, stats, fields, reduce):
        if type(stats["logps"]) is not torch.Tensor:
            raise {error}("this takes tensors only")
        return reduce(-stats["logps"] * fields["token_weights"])

@hookimpl
def tk_losses():
    yield LossSpec(name="picky", target=Picky, summary="Takes plain tensors.")
"""


@pytest.mark.parametrize("error", ["ValueError", "TypeError", "RuntimeError"])
def test_code_that_fails_without_numbers_leaves_the_estimate_incomplete(
    error: str, configured: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "picky.py").write_text(LOSS.replace("{error}", error))
    losses = {"causal-lm": None, "picky": 1.0}
    found = tk.plan(configured(losses=losses, plugins={"files": [str(tmp_path / "picky.py")]}))
    assert found.memory is not None
    assert found.memory.total > found.memory.weights > 0
    assert not found.memory.complete
    (note,) = [note for note in found.notes if note.startswith("memory: not all is counted")]
    assert note.endswith(f"({error}: this takes tensors only).")


def test_the_peak_of_a_process_is_its_own() -> None:
    """Not that of whoever started it, which Linux counts where a program is begun by vfork."""
    child = "from tk_torch.record import peak_memory; print(peak_memory('cpu'))"
    parent = (
        f"import subprocess, sys; held = b'x' * {2**30}; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    out = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert 50 * MIB < int(out) < 900 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "sections"),
    [
        ("rows", {}),
        ("rows", {"tuner": {"name": "lora", "rank": 4}, "train": {"gradient_checkpointing": True}}),
        ("pairs", {"method": "dpo"}),
    ],
)
def test_a_run_takes_what_was_told(
    configured: Callable[..., dict[str, Any]], tmp_path: Path, rows: str, sections: dict[str, Any]
) -> None:
    """In processes of their own, whose allocator leaves no gaps. A forgotten part would be a fifth of it or more."""
    more = {"train": {"micro_batch_size": 8, "batch_size": 16, **sections.get("train", {})}}
    config = configured(rows, **{**sections, **more}, output=str(tmp_path / "run"))
    (tmp_path / "config.json").write_text(json.dumps(config))

    def told(*flags: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "tk", "train", "-c", str(tmp_path / "config.json"), "--json", *flags]
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
        out = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
        found: dict[str, Any] = json.loads(out[out.index("{\n") :])
        return found

    memory = told("--dry-run")["memory"]
    measured = told()["peak_memory"]
    own, taken = memory["total"] - memory["other"], measured - memory["other"]
    assert own > 50 * MIB
    assert 0.8 * taken - 25 * MIB < own < 1.2 * taken, (own / MIB, taken / MIB)
