"""How Qwen-VL takes videos: which frames, in which size, as which patches.

The same numbers as transformers' video processors (`Qwen2VLVideoProcessor`, `Qwen3VLVideoProcessor`), which cannot be imported
where torchvision is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from tk.errors import UsageError
from tk_media.films import Film, normalised, video_settings

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VideoSettings:
    """Settings by their names in a checkpoint's files, with the defaults of Qwen2-VL."""

    size: Mapping[str, int] = field(
        default_factory=lambda: {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}
    )
    image_mean: Sequence[float] = CLIP_MEAN
    image_std: Sequence[float] = CLIP_DEVIATION
    rescale_factor: float = 1 / 255
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    min_frames: int = 4
    max_frames: int = 768


QWEN2 = VideoSettings()
QWEN3 = VideoSettings(
    size={"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768},
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    patch_size=16,
)


def settings_of(folder: Path, *, later: bool) -> VideoSettings:
    """A checkpoint's. later: Qwen3-VL's, whose processor reads of sizes `size` only."""
    defaults, stored = QWEN3 if later else QWEN2, video_settings(folder)
    known = {f.name: stored[f.name] for f in fields(VideoSettings) if f.name in stored}
    size = {**defaults.size, **known.get("size", {})}
    for name, edge in () if later else (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        size[edge] = stored.get(name, size[edge])
    return replace(defaults, **{**known, "size": size})


@dataclass(frozen=True)
class QwenVideos:
    """Qwen2-VL and Qwen2.5-VL: each frame is resized by itself.

    fps: frames a second that are taken.
    """

    settings: VideoSettings
    fps: float = 2.0

    @property
    def side(self) -> int:
        """Pixels of a token's square."""
        return self.settings.patch_size * self.settings.merge_size

    def taken(self, film: Film) -> Sequence[int]:
        settings, per_patch = self.settings, self.settings.temporal_patch_size
        most = math.floor(min(settings.max_frames, film.frames) / per_patch) * per_patch
        wanted = min(max(film.frames / film.rate * self.fps, settings.min_frames), most, film.frames)
        count = math.floor(wanted / per_patch) * per_patch
        if not count:  # a single frame, which is repeated
            return range(film.frames)
        return torch.arange(0, film.frames, film.frames / count).int().tolist()

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels as the model sees them. Raises ValueError for shapes that it does not take."""
        edges = self.settings.size
        rows, columns = smart_resize(height, width, self.side, edges["shortest_edge"], edges["longest_edge"])
        return rows, columns

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens in time, height and width."""
        rows, columns = self.size(frames, height, width)
        return -(-frames // self.settings.temporal_patch_size), rows // self.side, columns // self.side

    def tensors(self, videos: Sequence[Tensor]) -> Mapping[str, Tensor]:
        made = [self._patches(video) for video in videos]
        return {
            "pixel_values_videos": torch.cat([patches for patches, _ in made]),
            "video_grid_thw": torch.tensor([grid for _, grid in made]),
        }

    def _patches(self, video: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """[patches, 3 · frames · side · side], squares of merge_size² patches together, and how many there are each way."""
        settings = self.settings
        pixels = normalised(video, settings.image_mean, settings.image_std, settings.rescale_factor)
        missing = -len(pixels) % settings.temporal_patch_size
        pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
        side, merge, time = settings.patch_size, settings.merge_size, settings.temporal_patch_size
        frames, _, height, width = pixels.shape
        grid = (frames // time, height // side, width // side)
        parts = pixels.reshape(grid[0], time, 3, grid[1] // merge, merge, side, grid[2] // merge, merge, side)
        return parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid


class Qwen3Videos(QwenVideos):
    """Qwen3-VL: all frames of a video share the budget of pixels."""

    def taken(self, film: Film) -> Sequence[int]:
        settings = self.settings
        wanted = int(film.frames / film.rate * self.fps)
        count = min(max(wanted, settings.min_frames), settings.max_frames, film.frames)
        taken: list[int] = np.linspace(0, film.frames - 1, count).round().astype(int).tolist()
        return taken

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        time, side, edges = self.settings.temporal_patch_size, self.side, self.settings.size
        if frames < time:
            raise ValueError(f"it has fewer than {time} frames")
        if height < side or width < side:
            scale = max(side / height, side / width)
            height, width = int(height * scale), int(width * scale)
        if max(height, width) / min(height, width) > 200:
            raise ValueError("one side is more than 200 times the other")
        rows, columns = round(height / side) * side, round(width / side) * side
        whole = round(frames / time) * time * rows * columns
        if whole > edges["longest_edge"]:
            beta = math.sqrt(frames * height * width / edges["longest_edge"])
            return tuple(max(side, math.floor(n / beta / side) * side) for n in (height, width))  # type: ignore[return-value]
        if whole < edges["shortest_edge"]:
            beta = math.sqrt(edges["shortest_edge"] / (frames * height * width))
            return tuple(math.ceil(n * beta / side) * side for n in (height, width))  # type: ignore[return-value]
        return rows, columns

    def seconds(self, taken: Sequence[int], rate: float) -> list[float]:
        """When each of the tokens' frames stands: the mean of the first and the last that it is made of."""
        time = self.settings.temporal_patch_size
        whole = [*taken, *[taken[-1]] * (-len(taken) % time)]
        return [(whole[i] / rate + whole[i + time - 1] / rate) / 2 for i in range(0, len(whole), time)]


def videos_of(model_type: str, folder: Path, fps: float, max_frames: int | None) -> QwenVideos:
    """By the model's type and the checkpoint's settings. Raises UsageError where there is no room for a frame."""
    later = model_type.startswith("qwen3")
    settings = settings_of(folder, later=later)
    if max_frames is not None:
        settings = replace(settings, max_frames=max_frames, min_frames=min(settings.min_frames, max_frames))
    if settings.max_frames < settings.temporal_patch_size:
        raise UsageError(f"model.max_frames: {settings.max_frames} is less than {settings.temporal_patch_size}.")
    return (Qwen3Videos if later else QwenVideos)(settings, fps)
