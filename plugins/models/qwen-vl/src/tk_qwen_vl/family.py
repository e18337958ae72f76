"""The family `qwen-vl`: what of these models cannot be read from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tk.config.sections import MediaSection
from tk.contracts import LoadedModel
from tk.errors import UsageError
from tk_auto.family import AutoFamily
from tk_media.pictures import Pictures, image_processor
from tk_media.reading import Reader
from tk_qwen_vl.options import QwenVLOptions
from tk_qwen_vl.positions import positions
from tk_qwen_vl.spelling import Qwen3Spelling, Spelling
from tk_qwen_vl.videos import Qwen3Videos, videos_of

GROUPS = {
    "vision_tower": ("visual.patch_embed", "visual.pos_embed", "visual.blocks"),
    "aligner": ("visual.merger", "visual.deepstack_merger_list"),
    "language_model": ("language_model", "lm_head", "score"),
}
"""Ends of the names of the models' parts."""


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
        spelling = self._spelling(model, processor)
        return Pictures(
            Reader(section),
            processor,
            Path(model.path),
            marks=spelling.marks,
            surround={type: f"<|vision_start|><|{type}_pad|><|vision_end|>" for type in spelling.marks},
            ids=spelling.ids,
            place=partial(positions, spread=spelling.spread),
            videos=spelling.videos,
        )

    def _spelling(self, model: LoadedModel, processor: Any) -> Spelling:
        config: Any = model.module.config
        videos = videos_of(config.model_type, Path(model.path), self.options.fps, self.options.max_frames)
        marks = {"image": config.image_token_id, "video": config.video_token_id}
        if isinstance(videos, Qwen3Videos):
            around = (config.vision_start_token_id, config.vision_end_token_id)
            return Qwen3Spelling(processor, videos, marks, tokenizer=model.tokenizer, around=around)
        return Spelling(processor, videos, marks, getattr(config.vision_config, "tokens_per_second", None))


def _groups(module: Any) -> dict[str, tuple[str, ...]]:
    names = [name for name, _ in module.named_modules()]

    def found(ends: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names for end in ends if name == end or name.endswith(f".{end}"))

    return {group: found(ends) for group, ends in GROUPS.items()}
