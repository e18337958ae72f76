"""What a run shows of held-out rows, before and after, whatever its model ends in."""

from __future__ import annotations

import base64
import io
import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tk
from tk_conformance.tiny import tiny_run

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "make.py"


def shown(config: Mapping[str, Any], folder: Path, **sections: Any) -> list[dict[str, Any]]:
    evaluation = {"hold_out": 2, "generate": 2, "max_new_tokens": 4}
    tk.train(
        {**config, "eval": evaluation, "report": {"plot": False}, "output": {"dir": str(folder / "run")}, **sections}
    )
    samples: list[dict[str, Any]] = json.loads((folder / "run/run.json").read_text())["samples"]
    page = (folder / "run/report.html").read_text()
    assert len(samples) == 2
    assert "before training" in page
    return samples


def said(samples: list[dict[str, Any]]) -> list[str]:
    return [sample[when] for sample in samples for when in ("before", "after")]


def test_labels_by_their_names(tmp_path: Path) -> None:
    rows = [{"text": "ab" * i, "label": i % 2} for i in range(1, 9)]
    config = tiny_run(tmp_path, rows, method={"name": "classification", "labels": ["even", "odd"]})
    samples = shown(config, tmp_path, tuner={"name": "full"})
    assert [s["reference"] for s in samples] == [["even", "odd"][len(s["prompt"]) // 2 % 2] for s in samples]
    assert all(re.fullmatch(r"(even|odd) \(\d+%\)", text) for text in said(samples))


def test_several_labels_or_none(tmp_path: Path) -> None:
    rows = [{"text": "ab" * i, "label": [["a"], [], ["a", "b"]][i % 3]} for i in range(1, 9)]
    config = tiny_run(tmp_path, rows, method={"name": "multi-label", "labels": ["a", "b"]})
    samples = shown(config, tmp_path, tuner={"name": "full"})
    assert {s["reference"] for s in samples} <= {"a", "none", "a, b"}
    assert all(re.fullmatch(r"none|[ab] \(\d+%\)(, b \(\d+%\))?", text) for text in said(samples))


def test_the_scores_of_both_answers(tmp_path: Path) -> None:
    rows = [{"prompt": "ab" * i, "chosen": "cd", "rejected": "ef" * i} for i in range(1, 9)]
    samples = shown(tiny_run(tmp_path, rows, method="reward"), tmp_path, tuner={"name": "full"})
    assert all([m["role"] for m in s["prompt"]] == ["user"] for s in samples)
    assert all(
        re.fullmatch(r"chosen: reward -?\d+\.\d{3}\nrejected: reward -?\d+\.\d{3}", text) for text in said(samples)
    )


def test_the_nearest_passage(tmp_path: Path) -> None:
    rows = [{"query": "ab" * i, "positive": "cd" * i} for i in range(1, 9)]
    samples = shown(tiny_run(tmp_path, rows, method="embedding"), tmp_path, tuner={"name": "full"})
    held = {sample["reference"] for sample in samples}
    assert held < {row["positive"] for row in rows}
    for text in said(samples):
        found = re.fullmatch(r"((cd)+)  \(cosine -?\d\.\d{3}, among 2\)", text)
        assert found
        assert found[1] in held


@pytest.mark.parametrize("longest", [56, 400])
def test_pictures_as_the_model_sees_them(tmp_path: Path, longest: int) -> None:
    runpy.run_path(str(DIGITS))["write_model"](tmp_path / "model")
    pixels = np.zeros((longest // 2, longest, 3), dtype=np.uint8)
    pixels[:, :, 0] = 200
    Image.fromarray(pixels).save(tmp_path / "red.png")
    row = {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}]}
    (tmp_path / "rows.jsonl").write_text((json.dumps({**row, "images": ["red.png"]}) + "\n") * 4)
    config = {
        "model": {"name": str(tmp_path / "model"), "min_pixels": 784, "max_pixels": 400 * 400},
        "data": str(tmp_path / "rows.jsonl"),
        "tuner": {"name": "full"},
        "train": {"steps": 1, "batch_size": 2},
    }
    for sample in shown(config, tmp_path):
        (url,) = sample["pictures"]
        picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        assert max(picture.size) == min(longest, 240)
        red, green, _ = picture.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert red > 180
        assert green < 20
        assert f'src="{url}"' in (tmp_path / "run/report.html").read_text()
    (saved,) = (tmp_path / "run/checkpoints").iterdir()
    assert "base64" not in (saved / "state.json").read_text()
