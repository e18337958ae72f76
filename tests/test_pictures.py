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
from PIL import Image

from tk_conformance.methods import check_method
from tk_conformance.videos import write_films

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


def test_sft(place: Path, tmp_path: Path) -> None:
    rows = [{"messages": asked(*p, text="x" * i) + said("y" * (8 - i))} for i, p in enumerate(SHOWN, 0)]
    rows[0] = {"messages": asked(0, text="x") + said("y")}
    check_method(config(place, tmp_path, rows), tmp_path, strategies=("ddp", "fsdp"))


def test_pairs(place: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": asked(*p, text="x" * (9 * i + 1)), "chosen": said("y" * (9 - i)), "rejected": said("z" * (i + 1))}
        for i, p in enumerate(SHOWN)
    ]
    losses = {"sigmoid": 0.8, "sft": 1.0}
    made = config(place, tmp_path, rows, method="dpo", losses=losses, tuner={"name": "lora", "rank": 2})
    check_method(made, tmp_path, strategies=("ddp", "fsdp"))


def test_scores_of_pairs(place: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": asked(*p), "chosen": said("y" * (9 - i)), "rejected": said("z" * (i + 1))}
        for i, p in enumerate(SHOWN)
    ]
    check_method(config(place, tmp_path, rows, method="reward"), tmp_path, strategies=("ddp", "fsdp"))


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


def test_labels(place: Path, tmp_path: Path) -> None:
    rows = [
        {"text": "<image>" * len(p) + "x" * (i + 1), "images": [f"{n}.png" for n in p], "label": i % 2}
        for i, p in enumerate(SHOWN)
    ]
    made = config(place, tmp_path, rows, method={"name": "classification", "labels": ["even", "odd"]})
    check_method(made, tmp_path, strategies=("ddp", "fsdp"))


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
