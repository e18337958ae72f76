"""From a model's tensors back to the picture that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

GAP = 4
"""Pixels between tiles."""


def seen(processor: Any, tensors: Mapping[str, Tensor]) -> Image.Image:
    """The picture in `pixel_values`: patches in the order of Qwen's processors, or tiles of [3, H, W] side by side.

    processor: transformers' image processor that has made them.
    """
    pixels = tensors["pixel_values"].float().numpy()
    tiles = (
        _patched(processor, pixels, tensors) if "image_grid_thw" in tensors else pixels.reshape(-1, *pixels.shape[-3:])
    )
    mean, deviation = (
        np.asarray(v, dtype=np.float32).reshape(-1, 1, 1) for v in (processor.image_mean, processor.image_std)
    )
    plain = tiles * deviation + mean if processor.do_normalize else tiles
    plain = plain / processor.rescale_factor if processor.do_rescale else plain
    return beside(plain.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def _patched(processor: Any, pixels: np.ndarray, tensors: Mapping[str, Tensor]) -> np.ndarray:
    """[1, 3, H, W] of patches [n, 3 · frames · side · side], which stand together by twos (merge_size) in either direction."""
    _, rows, columns = tensors["image_grid_thw"][0].tolist()
    side, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    parts = pixels.reshape(rows // merge, columns // merge, merge, merge, -1, frames, side, side)[:, :, :, :, :, 0]
    image = parts.transpose(4, 0, 2, 5, 1, 3, 6).reshape(parts.shape[4], rows * side, columns * side)
    return image[None]


def beside(images: np.ndarray) -> Image.Image:
    """[n, H, W, 3] in a row."""
    n, height, width, channels = images.shape
    sheet = np.full((height, n * (width + GAP) - GAP, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        sheet[:, i * (width + GAP) : i * (width + GAP) + width] = image
    return Image.fromarray(sheet)
