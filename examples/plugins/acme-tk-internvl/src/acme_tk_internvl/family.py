"""The family `internvl`: a picture is cut into tiles, each of them written as many times as it has features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from tk.config.sections import MediaSection
from tk.contracts import LoadedModel, Medium
from tk_auto.family import AutoFamily
from tk_media.pictures import Pictures, image_processor
from tk_media.reading import Reader


class InternVL(AutoFamily):
    """InternVL3 and 3.5. Has no options."""

    def load(self, path: str, *, media: MediaSection | None = None, **settings: Any) -> LoadedModel:  # type: ignore[override]
        model = super().load(path, **settings)
        return replace(model, media=_pictures(model, media or MediaSection()))


def _pictures(model: LoadedModel, section: MediaSection) -> Pictures:
    folder, config, tokenizer = Path(model.path), model.module.config, model.tokenizer
    processor = image_processor(folder, crop_to_patches=True)
    mark = config.image_token_id
    begin, end = tokenizer.convert_tokens_to_ids(["<img>", "</img>"])

    def ids(medium: Medium) -> Sequence[int]:
        tiles = processor.get_number_of_image_patches(*medium.size[-2:])
        return [begin, *[mark] * (tiles * config.image_seq_length), end]

    return Pictures(
        Reader(section),
        processor,
        folder,
        marks={"image": mark},
        surround={"image": f"{tokenizer.convert_ids_to_tokens(mark)}\n"},
        ids=ids,
        prepare=_tiles,
    )


def _tiles(processor: Any, pictures: Sequence[Image.Image], media: Sequence[Medium]) -> Mapping[str, Tensor]:
    """The tiles of all pictures, one after another; how many each has does not matter to the model."""
    return {"pixel_values": processor(images=list(pictures), return_tensors="pt")["pixel_values"]}
