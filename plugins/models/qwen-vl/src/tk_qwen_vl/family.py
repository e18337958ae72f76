"""The family `qwen-vl`: what of these models cannot be read from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tk.config.sections import MediaSection
from tk.contracts import LoadedModel, Medium
from tk.errors import UsageError
from tk_auto.family import AutoFamily
from tk_media.pictures import Pictures, image_processor
from tk_media.reading import Reader
from tk_qwen_vl.options import QwenVLOptions
from tk_qwen_vl.positions import Grid, positions

GROUPS = {
    "vision_tower": ("visual.patch_embed", "visual.pos_embed", "visual.blocks"),
    "aligner": ("visual.merger", "visual.deepstack_merger_list"),
    "language_model": ("language_model", "lm_head", "score"),
}
"""Ends of the names of the models' parts."""


@dataclass(frozen=True)
class Grids:
    """How many tokens a picture has in each direction, by its image processor's settings."""

    processor: Any

    def __call__(self, medium: Medium) -> Grid:
        height, width = medium.size[-2:]
        side, size = self.processor.patch_size * self.processor.merge_size, self.processor.size
        pixels = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        rows, columns = smart_resize(height, width, side, **pixels)
        return 1, rows // side, columns // side

    def count(self, medium: Medium) -> int:
        return int(np.prod(self(medium)))


class QwenVL(AutoFamily):
    """Qwen2-VL and what followed it. Built as `QwenVL(options)`."""

    def __init__(self, options: QwenVLOptions | None = None) -> None:
        self.options = options or QwenVLOptions()

    def load(self, path: str, *, media: MediaSection | None = None, **settings: Any) -> LoadedModel:  # type: ignore[override]
        model = super().load(path, **settings)
        return replace(model, media=self._pictures(model, media or MediaSection()), groups=_groups(model.module))

    def _pictures(self, model: LoadedModel, section: MediaSection) -> Pictures:
        processor = image_processor(Path(model.path))
        wish = {"shortest_edge": self.options.min_pixels, "longest_edge": self.options.max_pixels}
        processor.size = {**dict(processor.size), **{name: value for name, value in wish.items() if value}}
        if processor.size["shortest_edge"] > processor.size["longest_edge"]:
            raise UsageError(
                f"model.min_pixels: {processor.size['shortest_edge']} is more than max_pixels "
                f"{processor.size['longest_edge']}."
            )
        grid, mark = Grids(processor), model.module.config.image_token_id
        return Pictures(
            Reader(section),
            processor,
            Path(model.path),
            marks={"image": mark},
            surround={"image": "<|vision_start|><|image_pad|><|vision_end|>"},
            ids=lambda medium: [mark] * grid.count(medium),
            place=partial(positions, grid=grid),
        )


def _groups(module: Any) -> dict[str, tuple[str, ...]]:
    names = [name for name, _ in module.named_modules()]

    def found(ends: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names for end in ends if name == end or name.endswith(f".{end}"))

    return {group: found(ends) for group, ends in GROUPS.items()}
