"""The family `llava`: how many tokens a picture takes, which the model's own code tells, and pictures by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from tk.config.sections import MediaSection
from tk.contracts import LoadedModel, Medium
from tk.errors import DataError, TkError
from tk_auto.family import AutoFamily
from tk_llava.options import LlavaOptions
from tk_llava.outline import Outline
from tk_llava.videos import TileVideos
from tk_media.films import video_settings
from tk_media.pictures import Pictures, image_processor, one_by_one
from tk_media.reading import Reader


class Llava(AutoFamily):
    """LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision. Built as `Llava(options)`."""

    def __init__(self, options: LlavaOptions | None = None) -> None:
        self.options = options or LlavaOptions()

    def load(self, path: str, *, media: MediaSection | None = None, **settings: Any) -> LoadedModel:  # type: ignore[override]
        model = super().load(path, **settings)
        outline = Outline(model.module.config)
        names = [name for name, _ in model.module.named_parameters()]
        unread = frozenset(name for name in names if name.endswith(outline.unread))
        return replace(model, media=self._pictures(model, outline, media or MediaSection()), unread=unread)

    def _pictures(self, model: LoadedModel, outline: Outline, section: MediaSection) -> Pictures:
        pictures, mark = _pictures(model, outline, section), getattr(model.module.config, "video_token_id", None)
        if mark is None:
            return pictures
        stored = video_settings(pictures.folder)
        known = {name: stored[name] for name in ("image_mean", "image_std", "rescale_factor") if name in stored}
        videos = TileVideos(model.module.config.vision_config.image_size, outline.tile, self.options.frames, **known)
        return replace(
            pictures,
            marks={**pictures.marks, "video": mark},
            surround={**pictures.surround, "video": f"{model.tokenizer.convert_ids_to_tokens(mark)}\n"},
            ids=lambda medium: [mark] * videos.tokens if medium.type == "video" else pictures.ids(medium),
            videos=videos,
        )


def _pictures(model: LoadedModel, outline: Outline, section: MediaSection) -> Pictures:
    folder, config = Path(model.path), model.module.config
    processor = image_processor(folder)
    grouped = "batch_num_images" in processor.model_input_names
    count = _enlarged_within(section.pixel_limit, processor, outline.count(in_company=grouped))
    pictures = Pictures(
        Reader(section),
        processor,
        folder,
        marks={"image": config.image_token_id},
        surround={"image": f"{model.tokenizer.convert_ids_to_tokens(config.image_token_id)}\n"},
        ids=lambda medium: [config.image_token_id] * count(medium),
        prepare=by_sample if grouped else one_by_one,
    )
    _check_fit(pictures, config)
    return pictures


def by_sample(processor: Any, pictures: Sequence[Image.Image], media: Sequence[Medium]) -> Mapping[str, Tensor]:
    """Pictures in a list a sample: those with others beside them are not cut into tiles.

    Raises DataError for a picture that has lost all others, since the model would take it for one of its own.
    """
    groups: list[list[Image.Image]] = []
    for alone, run in groupby(zip(pictures, media, strict=True), key=lambda pair: pair[1].among == 1):
        pairs = list(run)
        if len(pairs) == 1 and not alone:
            medium = pairs[0][1]
            raise DataError(
                f"{medium.origin}: the row was cut, and of its {medium.among} pictures one is left, which this model "
                "would read in another way. Raise data.max_length, or set data.truncation to drop."
            )
        while pairs:
            size = pairs[0][1].among
            size += not alone and len(pairs) == size + 1  # what is left of a row that was cut joins others
            groups.append([picture for picture, _ in pairs[:size]])
            pairs = pairs[size:]
    return dict(processor(images=groups, return_tensors="pt"))


def _enlarged_within(limit: int, processor: Any, count: Callable[[Medium], int]) -> Callable[[Medium], int]:
    """`count`, for pictures that are made no larger than `limit` pixels where they are cropped after resizing.

    Raises ValueError for long strips, whose shorter side becomes that of the crop.
    """
    side = processor.size.get("shortest_edge") if not hasattr(processor, "image_grid_pinpoints") else None

    def checked(medium: Medium) -> int:
        short, long = sorted(medium.size[-2:])
        if side and side * side * long > limit * short:
            raise ValueError(f"it would be resized to {side}×{side * long // short}, more than media.pixel_limit.")
        return count(medium)

    return checked


def _check_fit(pictures: Pictures, config: Any) -> None:
    """Raises TkError where the image processor makes pictures of another size than the vision tower takes."""
    made = pictures.prepare(pictures.processor, [Image.new("RGB", (64, 32))], [Medium("image", "", (32, 64))])
    shape, side = tuple(made["pixel_values"].shape[-2:]), config.vision_config.image_size
    if shape != (side, side):
        raise TkError(
            f"{pictures.folder}: its image processor ({type(pictures.processor).__name__}) makes pictures of "
            f"{shape[0]}×{shape[1]} pixels, and its vision tower takes {side}×{side}: this is not a LLaVA's."
        )
    own, models = (getattr(part, "image_grid_pinpoints", None) for part in (pictures.processor, config))
    if own is not None and [*map(list, own)] != [*map(list, models)]:
        raise TkError(f"{pictures.folder}: image_grid_pinpoints of its image processor and of its config.json differ.")
