"""Tokens, tensors, log-probs, answers and saved checkpoints are those of transformers' released classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tk_conformance.vision import (
    check_broken_picture,
    check_generation,
    check_idle,
    check_inputs,
    check_log_probs,
    check_saved,
)
from tk_jinja.template import JinjaTemplate
from tk_llava.family import Llava
from tk_tensor.packing import probe_packing, probe_shared_prefix
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions


def test_towers_that_are_read_in_other_ways(variant: Any, tmp_path: Path) -> None:
    made = variant
    check_inputs(made.model, made.template, made.processor, made.samples)
    check_log_probs(made.model, made.template, made.processor, made.samples)
    check_idle(made.model, made.template, made.samples)
    check_saved(Llava(), made.model, made.processor, made.samples[1], tmp_path / "saved")


def test_what_is_planned_without_weights_is_what_is_loaded(made: Any) -> None:
    planned = Llava().load(made.model.path, device="meta")
    assert planned.media is not None
    assert all(parameter.is_meta for parameter in planned.module.parameters())
    assert (planned.unread, planned.groups) == (made.model.unread, made.model.groups)
    template = JinjaTemplate(tokenizer=planned.tokenizer, media=planned.media)
    assert template.encode(made.samples) == made.template.encode(made.samples)


def test_a_processor_that_is_described_nowhere(made: Any, tmp_path: Path) -> None:
    """Older checkpoints have no processor_config.json: the model itself says how many tokens a picture takes."""
    shutil.copytree(made.model.path, tmp_path / "model")
    (tmp_path / "model" / "processor_config.json").unlink()
    model = Llava().load(str(tmp_path / "model"))
    check_inputs(model, JinjaTemplate(tokenizer=model.tokenizer, media=model.media), made.processor, made.samples)


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


def test_a_broken_picture_fails_alone(made: Any, tmp_path: Path) -> None:
    engine = TransformersEngine(TransformersOptions(), model=made.model)
    check_broken_picture(engine, made.template, tmp_path)


def test_saved_checkpoints_open_in_plain_transformers(made: Any, tmp_path: Path) -> None:
    check_saved(Llava(), made.model, made.processor, made.samples[1], tmp_path / "saved")
