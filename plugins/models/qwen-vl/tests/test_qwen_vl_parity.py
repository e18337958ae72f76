"""Tokens, tensors, positions, log-probs, answers and saved checkpoints are those of transformers' released classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tk_conformance.vision import (
    check_broken_picture,
    check_generation,
    check_idle,
    check_inputs,
    check_log_probs,
    check_saved,
    rendered,
)
from tk_qwen_vl.family import QwenVL
from tk_tensor.packing import probe_packing, probe_shared_prefix
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions


def test_ids_and_tensors(made: Any) -> None:
    check_inputs(made.model, made.template, made.processor, made.samples)


def test_positions(made: Any) -> None:
    for sample, encoding in zip(made.samples, made.template.encode(made.samples), strict=True):
        out = rendered(made.processor, [sample])
        placed = {name: out[name] for name in ("mm_token_type_ids", "image_grid_thw") if name in out}
        expected, _ = made.model.module.model.get_rope_index(out["input_ids"], **placed)
        found = made.model.media.positions(encoding.ids, encoding.media)
        assert torch.equal(torch.from_numpy(found)[1:], expected[:, 0])
        assert np.array_equal(found[0], np.arange(len(encoding.ids)))


def test_log_probs_in_every_layout(made: Any) -> None:
    assert probe_packing(made.model.module, made.model.media)
    assert probe_shared_prefix(made.model.module, made.model.media)
    check_log_probs(made.model, made.template, made.processor, made.samples)


def test_an_idle_picture_runs_what_a_picture_runs(made: Any) -> None:
    check_idle(made.model, made.template, made.samples)


def test_greedy_answers(made: Any) -> None:
    engine = TransformersEngine(TransformersOptions(), model=made.model)
    check_generation(engine, made.model, made.template, made.processor, made.samples)


def test_a_broken_picture_fails_alone(made: Any, tmp_path: Path) -> None:
    engine = TransformersEngine(TransformersOptions(), model=made.model)
    check_broken_picture(engine, made.template, tmp_path)


def test_saved_checkpoints_open_in_plain_transformers(made: Any, tmp_path: Path) -> None:
    check_saved(QwenVL(), made.model, made.processor, made.samples[1], tmp_path / "saved")
