"""Tokens, tensors, log-probs, answers and saved checkpoints are those of transformers' released classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tk_conformance.vision import check_generation, check_idle, check_inputs, check_log_probs, check_saved
from tk_llava.family import Llava
from tk_tensor.packing import probe_packing, probe_shared_prefix
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions


def test_ids_and_tensors(made: Any) -> None:
    check_inputs(made.model, made.template, made.processor, made.samples)


def test_log_probs_in_every_layout(made: Any) -> None:
    assert probe_packing(made.model.module, made.model.media)
    assert probe_shared_prefix(made.model.module, made.model.media)
    check_log_probs(made.model, made.template, made.processor, made.samples)


def test_an_idle_picture_runs_what_a_picture_runs(made: Any) -> None:
    check_idle(made.model, made.template, made.samples)


def test_greedy_answers(made: Any) -> None:
    engine = TransformersEngine(TransformersOptions(), model=made.model)
    check_generation(engine, made.model, made.template, made.processor, made.samples)


def test_saved_checkpoints_open_in_plain_transformers(made: Any, tmp_path: Path) -> None:
    check_saved(Llava(), made.model, made.processor, made.samples[1], tmp_path / "saved")
