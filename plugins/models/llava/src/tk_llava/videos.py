"""How LLaVA-OneVision takes videos: as many frames of each, all in the size of a tile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tk_media.films import Film, normalised

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TileVideos:
    """side: pixels of a tile. tile: its features. frames: those taken of each video, since videos of a batch are stacked.

    The numbers are those of transformers' `LlavaOnevisionVideoProcessor`, which needs torchvision.
    """

    side: int
    tile: int
    frames: int
    image_mean: Sequence[float] = CLIP_MEAN
    image_std: Sequence[float] = CLIP_DEVIATION
    rescale_factor: float = 1 / 255

    def taken(self, film: Film) -> Sequence[int]:
        """Evenly over the video, frames of a short one more than once."""
        taken: list[int] = torch.arange(0, film.frames, film.frames / self.frames).int().tolist()
        return taken[: self.frames]

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        return self.side, self.side

    def tensors(self, videos: Sequence[Tensor]) -> Mapping[str, Tensor]:
        made = [normalised(video, self.image_mean, self.image_std, self.rescale_factor) for video in videos]
        return {"pixel_values_videos": torch.stack(made)}

    @property
    def tokens(self) -> int:
        """Of a video: each frame pooled to half its features each way, and one that ends it."""
        return self.frames * math.ceil(math.sqrt(self.tile) / 2) ** 2 + 1
