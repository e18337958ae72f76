"""How many tokens a picture takes, which pictures are refused, and checkpoints whose parts do not fit."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tk.config.sections import MediaSection
from tk.contracts import Limit, Medium
from tk.errors import DataError, TkError
from tk.sample import Message, Part, Sample
from tk_conformance.vision import asked, check_inputs, check_log_probs, write_pictures
from tk_llava.family import Llava
from tk_tensor.cut import shortened
from tk_tensor.preferences import encoded_pairs
from tk_tensor.tokens import Tokens


def test_a_picture_of_any_size_takes_the_tokens_that_the_processor_says_and_the_model_makes(made: Any) -> None:
    sizes = [tuple(size) for size in np.random.default_rng(0).integers(8, 200, (200, 2)).tolist()]
    media = made.model.media
    counted = [len(media.ids(Medium("image", "", size))) for size in sizes]
    said = made.processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
    assert counted == said
    assert len(set(counted)) == 1 or len(set(counted)) > 12
    for width, height in ((130, 120), (21, 199), (112, 112)):
        picture = Image.new("RGB", (width, height))
        tensors = media.prepare(media.processor, [picture], [Medium("image", "", (height, width))])
        with torch.no_grad():
            features = made.model.module.get_image_features(**tensors).pooler_output
        assert [len(f) for f in features] == [len(media.ids(Medium("image", "", (height, width))))]


def test_a_strip_that_would_be_resized_beyond_all_measure_is_refused_with_its_row(made: Any, tmp_path: Path) -> None:
    (strip,) = write_pictures(tmp_path, ((3000, 1),))
    media = Llava().load(made.model.path, media=MediaSection(pixel_limit=1_000_000)).media
    opened = media.open([Part("image", source=strip)], "rows.jsonl:7")
    if made.kind != "llava":  # it is shrunk to a resolution
        assert media.tokens(opened)
        return
    reason = r"rows\.jsonl:7: a picture of 3000×1 pixels: it would be resized to 28×84000, more than media\.pixel_limit"
    with pytest.raises(DataError, match=reason):
        media.tokens(opened)


@pytest.mark.parametrize("size", [(600, 20), (3000, 1), (1, 1)])
def test_extreme_sizes_are_taken_as_transformers_takes_them(made: Any, size: tuple[int, int], tmp_path: Path) -> None:
    (strip,) = write_pictures(tmp_path, (size,))
    answer = made.samples[0].messages[1]
    rows = [Sample((asked(Part("image", source=strip), "What?"), answer), origin="rows.jsonl:1"), made.samples[2]]
    check_inputs(made.model, made.template, made.processor, rows)
    check_log_probs(made.model, made.template, made.processor, rows)


def test_content_that_spells_the_token_of_a_picture_stays_text(made: Any) -> None:
    sample = made.samples[0]
    mark = made.model.media.marks["image"]
    spelled = type(sample)((asked(sample.messages[0].content[0], "an <image> tag"), sample.messages[1]), origin="a:1")
    (encoding,) = made.template.encode([spelled])
    assert sum(token == mark for token in encoding.ids) == encoding.media[0].length
    assert "an <image> tag" in made.model.tokenizer.decode([token for token in encoding.ids if token != mark])


def test_a_row_that_is_cut_down_to_one_of_its_pictures(made: Any) -> None:
    """Where pictures are read in another way alone than together, what is left of them is not guessed."""
    (encoding,) = made.template.encode([made.samples[1]])
    second = encoding.media[1]
    tokens = shortened(encoding, Limit(second.start, "right"), "rows.jsonl:2")
    assert tokens is not None
    assert len(tokens.media) == 1
    if made.kind != "llava_onevision":
        assert len(made.model.media.tensors(tokens.media)["pixel_values"]) == 1
        return
    with pytest.raises(
        DataError, match=r"rows\.jsonl:2: the row was cut, and of its 3 pictures one is left.*truncation"
    ):
        made.model.media.tensors(tokens.media)


def test_each_picture_of_a_row_is_shown_as_the_model_sees_it(made: Any) -> None:
    (encoding,) = made.template.encode([made.samples[1]])
    shown = [np.asarray(Image.open(io.BytesIO(made.model.media.seen(medium)))) for medium in encoding.media]
    tensors = made.model.media.tensors(encoding.media)["pixel_values"]
    assert len(shown) == 3
    if made.kind != "llava_next":  # which cuts each into tiles, which are shown side by side
        side = made.model.module.config.vision_config.image_size
        assert [picture.shape for picture in shown] == [(side, side, 3)] * 3
    spread = [float(picture.std()) for picture in tensors.flatten(1)]
    assert all((picture.std() > 1) == (deviation > 0.02) for picture, deviation in zip(shown, spread, strict=True))


def test_what_is_left_of_a_cut_row_joins_other_rows_of_several_pictures(made: Any) -> None:
    if made.kind != "llava_onevision":
        pytest.skip("pictures are read alike, alone and together")
    alone, several = made.template.encode(made.samples[:2])
    cut = Tokens.of(several)[: several.media[1].start].media
    numbers = {
        "cut, whole": (*cut, *several.media),
        "whole, cut": (*several.media, *cut),
        "one, cut, cut": (*alone.media, *cut, *cut),
    }
    found = {name: made.model.media.tensors(media)["batch_num_images"].tolist() for name, media in numbers.items()}
    assert found == {"cut, whole": [4], "whole, cut": [4], "one, cut, cut": [1, 2]}
    for media in numbers.values():
        with torch.no_grad():
            features = made.model.module.get_image_features(**made.model.media.tensors(media)).pooler_output
        assert [len(f) for f in features] == [medium.length for medium in media]


def test_a_picture_that_another_answer_shows_otherwise_is_not_shared(made: Any) -> None:
    """An answer that brings a picture of its own changes how some models see the prompt's."""
    question, answer = made.samples[0].messages
    again = made.samples[3].messages[0]
    rejected = (answer, again, Message("assistant", "No."))
    sample = Sample((question, Message("assistant", "A dog.")), rejected=rejected, shared=1, origin="rows.jsonl:1")
    (pair,) = encoded_pairs([sample], made.template, Limit())
    assert pair is not None
    shared = len(pair.prompt.media)
    assert shared == (0 if made.kind == "llava_onevision" else 1)
    assert len(pair.chosen.media) == 1 - shared
    assert len(pair.rejected.media) == 2 - shared
    better, worse = made.template.encode([sample, Sample((question, *rejected))])
    assert [*pair.prompt.ids, *pair.chosen.ids] == list(better.ids)
    assert [*pair.prompt.ids, *pair.rejected.ids] == list(worse.ids)


def changed_copy(made: Any, folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(made.folder / "model", folder)
    content = json.loads((folder / file).read_text("utf-8"))
    change(content)
    (folder / file).write_text(json.dumps(content), "utf-8")
    return folder


def test_an_image_processor_that_does_not_fit_the_tower(made: Any, tmp_path: Path) -> None:
    def larger(content: dict[str, Any]) -> None:
        content["size"] = {"height": 32, "width": 32}
        content.pop("crop_size", None)
        content["do_center_crop"] = False

    folder = changed_copy(made, tmp_path / "model", "preprocessor_config.json", larger)
    with pytest.raises(TkError, match=r"makes pictures of 32×32 pixels, and its vision tower takes 28×28"):
        Llava().load(str(folder))


def test_resolutions_that_differ_between_the_model_and_its_image_processor(made: Any, tmp_path: Path) -> None:
    if made.kind == "llava":
        pytest.skip("it has no resolutions to choose from")

    def fewer(content: dict[str, Any]) -> None:
        content["image_grid_pinpoints"] = content["image_grid_pinpoints"][:2]

    folder = changed_copy(made, tmp_path / "model", "preprocessor_config.json", fewer)
    with pytest.raises(TkError, match=r"image_grid_pinpoints of its image processor and of its config\.json differ"):
        Llava().load(str(folder))


def test_a_template_beside_the_tokenizer_that_only_processors_read(made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made.folder / "model", folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": made.model.tokenizer.chat_template}), "utf-8"
    )
    model = Llava().load(str(folder))
    assert model.tokenizer.chat_template == made.model.tokenizer.chat_template


def test_a_folder_without_an_image_processor(made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made.folder / "model", folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(TkError, match="no image processor that transformers opens"):
        Llava().load(str(folder))
