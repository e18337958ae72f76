"""Every kind of training takes pictures as it takes text: the same weights whatever the accumulation, the number of
processes and the strategy, also where a rank has no picture."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tk
from tk import setup
from tk.contracts import World
from tk.errors import DataError, UsageError
from tk_conformance.methods import check_method
from tk_conformance.videos import write_films
from tk_torch.assemble import assemble

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits" / "make.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen2-VL and four pictures of unequal sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    runpy.run_path(str(EXAMPLE))["write_model"](folder / "model")
    noise = np.random.default_rng(0)
    for number, (width, height) in enumerate(((56, 56), (84, 28), (30, 90), (200, 100))):
        pixels = noise.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def asked(*pictures: int, text: str = "What?") -> list[dict[str, Any]]:
    """A user's message; its pictures stand before the words."""
    parts = [{"type": "image", "image": f"{number}.png"} for number in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


SHOWN: tuple[tuple[int, ...], ...] = ((0,), (), (1, 2), (), (), (3,), (), (2, 0))
"""Pictures of each row: rows of one process are often without any."""


def config(place: Path, folder: Path, rows: list[dict[str, Any]], **sections: Any) -> Mapping[str, Any]:
    data = place / f"{folder.name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"name": str(place / "model"), "max_pixels": 6400, "min_pixels": 784},
        "data": str(data),
        "tuner": {"name": "full"},
        "optim": {"name": "sgd", "lr": 1e-3},
        "train": {"batch_size": 8, "steps": 3},
        "report": {"html": False, "plot": False},
        **sections,
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_one_has_no_picture_in_some_forwards(place: Path, tmp_path: Path, rank: int) -> None:
    """What the tests of this file are about: a process then runs an idle picture, and the other one its own."""
    rows = [{"messages": asked(*p, text="x" * (i + 1)) + said("y" * (8 - i))} for i, p in enumerate(SHOWN)]
    made = config(place, tmp_path, rows, train={"batch_size": 8, "micro_batch_size": 2, "steps": 3})
    parts = assemble(setup.plan(setup.Given(values=[made])), World(rank, 2, "cpu"), device="cpu")
    batches = [batch for window in parts.loader.windows() for batch in window.batches]
    assert {"pixel_values" in batch.inputs for batch in batches} == {True, False}
    assert all(("idle" in batch.inputs) != ("pixel_values" in batch.inputs) for batch in batches)


def test_sft(place: Path, tmp_path: Path) -> None:
    rows = [{"messages": asked(*p, text="x" * i) + said("y" * (8 - i))} for i, p in enumerate(SHOWN, 0)]
    rows[0] = {"messages": asked(0, text="x") + said("y")}
    check_method(config(place, tmp_path, rows), tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.slow
def test_pairs(place: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": asked(*p, text="x" * (9 * i + 1)), "chosen": said("y" * (9 - i)), "rejected": said("z" * (i + 1))}
        for i, p in enumerate(SHOWN)
    ]
    losses = {"sigmoid": 0.8, "sft": 1.0}
    made = config(place, tmp_path, rows, method="dpo", losses=losses, tuner={"name": "lora", "rank": 2})
    check_method(made, tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.slow
def test_scores_of_pairs(place: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": asked(*p), "chosen": said("y" * (9 - i)), "rejected": said("z" * (i + 1))}
        for i, p in enumerate(SHOWN)
    ]
    check_method(config(place, tmp_path, rows, method="reward"), tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"name": "grpo", "kl": 0.1}, {"name": "ppo"}, {"name": "ppo", "critic": "own"}])
def test_online_answers(place: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    rows = [{"messages": asked(*p, text="x" * (i + 1))} for i, p in enumerate(SHOWN)]
    made = config(
        place,
        tmp_path,
        rows,
        method=method,
        rewards={"format": {"pattern": "[a-z].*", "weight": 1.0}},
        sampling={"n": 2, "max_tokens": 6},
        tuner={"name": "lora", "rank": 2},
    )
    check_method(made, tmp_path, strategies=("ddp",))


@pytest.mark.slow
def test_labels(place: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "<image>" * len(p) + "x" * (i + 1), "images": [f"{n}.png" for n in p], "label": i % 2}
        for i, p in enumerate(SHOWN)
    ]
    made = config(place, tmp_path, rows, method={"name": "classification", "labels": ["even", "odd"]})
    check_method(made, tmp_path, strategies=("ddp", "fsdp"))


@pytest.mark.slow
def test_vectors(place: Path, tmp_path: Path) -> None:
    rows = [
        {
            "query": "<image>" * len(p) + "x" * (i + 1) + str(i),
            "images": [f"{n}.png" for n in p],
            "positive": f"{i}" + "y" * (9 - i),
        }
        for i, p in enumerate(SHOWN)
    ]
    check_method(config(place, tmp_path, rows, method="embedding"), tmp_path, strategies=("ddp", "fsdp"))


BAD = ("cut.png", "gone.png")
GROUP = {"gradient_checkpointing": True, "checkpointed_groups": ["vision_tower"]}


def trained(made: Mapping[str, Any], folder: Path, **sections: Any) -> dict[str, Any]:
    """The weights of an adapter that a run trains, or of the model."""
    tk.train({**made, **sections, "output": {"dir": str(folder)}})
    (file,) = (folder / "final").glob("*.safetensors")
    return load_file(file)


def test_groups_have_ranks_and_learning_rates_of_their_own(place: Path, tmp_path: Path) -> None:
    rows = [{"messages": asked(0, text="x" * (i + 1)) + said("y" * (8 - i))} for i in range(8)]
    made = config(place, tmp_path, rows)
    groups = ["language_model", "vision_tower", "aligner"]
    tuner = {"name": "lora", "rank": 4, "groups": groups, "rank_pattern": {"vision_tower": 2, "aligner": 1}}
    found = trained(made, tmp_path / "lora", tuner=tuner, train={"batch_size": 8, "steps": 1})
    ranks = {name: len(value) for name, value in found.items() if "lora_A" in name}
    told = {"merger": 1, "visual.blocks": 2, "language_model": 4}
    assert ranks
    assert all(rank == next(r for part, r in told.items() if part in name) for name, rank in ranks.items())
    steps = {"batch_size": 8, "steps": 1, "max_grad_norm": None}
    before = load_file(place / "model" / "model.safetensors")
    moved = {}
    for scale in (1.0, 0.25):
        tuner = {"name": "full", "lr_scale": {"vision_tower": scale}}
        after = trained(made, tmp_path / f"full{scale}", tuner=tuner, train=steps, optim={"name": "sgd", "lr": 0.5})
        moved[scale] = {name: after[name] - before[name] for name in before}
    for name, whole in moved[1.0].items():
        if float(whole.norm()) > 1e-4:
            ratio = float(moved[0.25][name].norm() / whole.norm())
            tower = "visual" in name and "merger" not in name
            assert ratio == pytest.approx(0.25 if tower else 1.0, rel=1e-2), name


def test_activations_of_a_group_are_recomputed(place: Path, tmp_path: Path) -> None:
    rows = [{"messages": asked(0, text="x" * (i + 1)) + said("y" * (8 - i))} for i in range(8)]
    made = config(place, tmp_path, rows)
    plan = setup.plan(setup.Given(values=[made, {"train": {**made["train"], **GROUP}}]))
    parts = assemble(plan, World(0, 1, "cpu"), device="cpu")
    on = {n for n, part in parts.policy.module.named_modules() if getattr(part, "gradient_checkpointing", False)}
    assert on
    assert all("visual" in name for name in on)
    plain = trained(made, tmp_path / "plain")
    again = trained(made, tmp_path / "again", train={**made["train"], **GROUP})
    assert all(torch.allclose(plain[name], again[name], rtol=0, atol=1e-7) for name in plain)
    with pytest.raises(UsageError, match="train: checkpointed_groups: nothing is recomputed without"):
        setup.plan(setup.Given(values=[made, {"train": {"checkpointed_groups": ["vision_tower"]}}]))


def test_how_media_are_read_is_kept_with_the_run(place: Path, tmp_path: Path) -> None:
    rows = [{"messages": asked(0, text="x") + said("y")}] * 8
    made = config(place, tmp_path, rows, media={"root": str(place)}, train={"batch_size": 8, "steps": 1})
    tk.train({**made, "output": {"dir": str(tmp_path / "run")}})
    kept = setup.plan(setup.Given(run=tmp_path / "run")).tree
    assert (kept["model"]["max_pixels"], kept["model"]["min_pixels"]) == (6400, 784)
    assert kept["media"]["root"] == str(place)


def test_bad_pictures_stop_a_run_or_are_skipped_and_counted(place: Path, tmp_path: Path) -> None:
    (place / "cut.png").write_bytes((place / "3.png").read_bytes()[:200])
    rows = [{"messages": asked(0, text="x") + said("y" * (i + 1))} for i in range(4)]
    rows += [{"messages": [{"role": "user", "content": "<image>What?"}, *said("y")], "images": [n]} for n in BAD]
    rows.append({"messages": [{"role": "user", "content": "<image>What?"}, *said("y")], "images": ["0.png", "1.png"]})
    made = config(place, tmp_path, rows, train={"batch_size": 4, "steps": 1})
    with pytest.raises(DataError, match=r"jsonl:7: images: 2 of them, and 1 places: "):
        tk.train({**made, "output": {"dir": str(tmp_path / "stop")}})
    data = {"sources": {"rows": {"path": made["data"]}}, "on_error": "skip"}
    tk.train({**made, "data": data, "output": {"dir": str(tmp_path / "skip")}})
    skipped = [json.loads(line) for line in (tmp_path / "skip" / "skipped.jsonl").read_text().splitlines()]
    told = {row["origin"].rpartition(":")[2]: row["reason"] for row in skipped}
    assert told.keys() == {"5", "6", "7"}
    assert "cut.png cannot be read" in told["5"]
    assert "there is no file" in told["6"]
    plan = json.loads((tmp_path / "skip" / "run.json").read_text())["plan"]
    assert sum(plan["skipped"].values()) == 3


@pytest.mark.slow
def test_videos_among_pictures_and_words(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    films = write_films(tmp_path)
    shown: list[tuple[str, ...]] = [("a",), (), ("b", "c"), (), (), ("long",), (), ("c",)]
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>" * (i % 4 == 2) + "<video>" * len(names) + "x" * (i + 1)},
                {"role": "assistant", "content": "y" * (8 - i)},
            ],
            "videos": [films[name] for name in names],
            "images": ["1.png"] * (i % 4 == 2),
        }
        for i, names in enumerate(shown)
    ]
    made = config(place, tmp_path, rows)
    made = {**made, "model": {**made["model"], "fps": 1.0, "max_frames": 4}}
    check_method(made, tmp_path, strategies=("ddp", "fsdp"))
