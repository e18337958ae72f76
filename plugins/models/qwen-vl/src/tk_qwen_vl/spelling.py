"""Which tokens stand for a picture or a video, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tk.contracts import Medium
from tk_qwen_vl.positions import Grid, Spread, behind, block, text
from tk_qwen_vl.videos import Qwen3Videos, QwenVideos


@dataclass(frozen=True)
class Spelling:
    """Of Qwen2-VL and Qwen2.5-VL.

    processor: transformers' image processor. marks: type -> token id. tokens_per_second: positions of a second of video
    (None: a frame is one).
    """

    processor: Any
    videos: QwenVideos
    marks: dict[str, int]
    tokens_per_second: float | None = None

    def grid(self, medium: Medium) -> Grid:
        """Raises ValueError for a size that the model does not take."""
        if medium.type == "video":
            frames, height, width = medium.size
            return self.videos.grid(frames, height, width)
        height, width = medium.size
        side, size = self.processor.patch_size * self.processor.merge_size, self.processor.size
        pixels = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        rows, columns = smart_resize(height, width, side, **pixels)
        return 1, rows // side, columns // side

    def ids(self, medium: Medium) -> Sequence[int]:
        return [self.marks[medium.type]] * prod(self.grid(medium))

    def spread(self, medium: Medium) -> Spread:
        grid = self.grid(medium)
        if medium.type == "image" or self.tokens_per_second is None:
            return block(grid)
        taken, frames, rate = _facts(medium)
        seconds = np.float32(self.videos.settings.temporal_patch_size / (len(taken) / frames * rate))
        return block(grid, np.float32(self.tokens_per_second) * seconds)


@dataclass(frozen=True)
class Qwen3Spelling(Spelling):
    """Of Qwen3-VL: each frame of a video behind the second at which it stands, in words."""

    tokenizer: Any = None
    around: tuple[int, int] = (0, 0)
    """Ids of the tokens before and behind a frame."""

    def ids(self, medium: Medium) -> Sequence[int]:
        return list(chain.from_iterable(self._frames(medium))) if medium.type == "video" else super().ids(medium)

    def spread(self, medium: Medium) -> Spread:
        if medium.type == "image":
            return super().spread(medium)
        _, rows, columns = self.grid(medium)
        parts = []
        for frame in self._frames(medium):
            parts += [text(len(frame) - rows * columns - 1), block((1, rows, columns)), text(1)]
        return behind(parts)

    def _frames(self, medium: Medium) -> list[list[int]]:
        videos, (taken, _, rate) = self.videos, _facts(medium)
        assert isinstance(videos, Qwen3Videos)
        count = prod(self.grid(medium)[1:])
        start, end = self.around
        words = [f"<{second:.1f} seconds>" for second in videos.seconds(taken, rate)]
        spelled: list[list[int]] = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        return [[*ids, start, *[self.marks["video"]] * count, end] for ids in spelled]


def _facts(medium: Medium) -> tuple[Sequence[int], int, float]:
    """Frames that are taken, how many there are, and how many a second."""
    assert medium.facts is not None
    return medium.facts["taken"], medium.facts["frames"], medium.facts["rate"]
