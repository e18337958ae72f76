"""How large pictures are to the model, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tk.errors import DataError, UsageError
from tk.sample import Part
from tk_conformance.vision import write_pictures
from tk_qwen_vl.family import QwenVL
from tk_qwen_vl.options import QwenVLOptions


@pytest.mark.slow
def test_limits_on_pixels_change_tokens_and_tensors_alike(made: Any, tmp_path: Path) -> None:
    (file,) = write_pictures(tmp_path, ((640, 480),))
    lengths = {}
    for limit in (None, 5_000, 100_000):
        media = QwenVL(QwenVLOptions(max_pixels=limit)).load(made.model.path).media
        opened = media.open([Part("image", source=file)], "rows.jsonl:1")
        (tokens,) = media.tokens(opened)
        made_of = media.tensors(opened)["pixel_values"]
        assert len(made_of) == 4 * len(tokens)
        lengths[limit] = len(tokens)
    assert lengths[5_000] < lengths[None] < lengths[100_000]


def test_a_least_size_above_the_largest_is_a_usage_error(made: Any) -> None:
    with pytest.raises(UsageError, match=r"model\.min_pixels: 90000 is more than max_pixels"):
        QwenVL(QwenVLOptions(min_pixels=90_000)).load(made.model.path)


def test_a_strip_is_refused_with_its_row(made: Any, tmp_path: Path) -> None:
    (strip,) = write_pictures(tmp_path, ((2010, 10),))
    opened = made.model.media.open([Part("image", source=strip)], "rows.jsonl:7")
    with pytest.raises(DataError, match=r"rows\.jsonl:7: a picture of 2010×10 pixels: absolute aspect ratio"):
        made.model.media.tokens(opened)


def test_content_that_spells_the_token_of_a_picture_stays_text(made: Any) -> None:
    sample, mark = made.samples[0], made.model.media.marks["image"]
    picture, _ = sample.messages[0].content
    words = Part("text", "an <|image_pad|> tag")
    spelled = type(sample)((type(sample.messages[0])("user", (picture, words)), sample.messages[1]), origin="a:1")
    (encoding,) = made.template.encode([spelled])
    assert sum(token == mark for token in encoding.ids) == encoding.media[0].length
    assert "an <|image_pad|> tag" in made.model.tokenizer.decode([t for t in encoding.ids if t != mark])


def test_a_sound_is_refused_by_what_the_model_takes(made: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:3: holds audio, and this model takes image, video only"):
        made.model.media.open([Part("audio", source="a.wav")], "rows.jsonl:3")


def test_parts_of_the_model_by_group(made: Any) -> None:
    names = {name for name, _ in made.model.module.named_parameters()}
    for group, part in (("vision_tower", "visual."), ("aligner", "merger"), ("language_model", "language_model")):
        prefixes = made.model.groups[group]
        own = {name for name in names if name.startswith(tuple(f"{prefix}." for prefix in prefixes))}
        assert own
        assert all(part in name or name.startswith("lm_head") for name in own)
    every = tuple(f"{prefix}." for prefixes in made.model.groups.values() for prefix in prefixes)
    assert all(name.startswith(every) for name in names)
