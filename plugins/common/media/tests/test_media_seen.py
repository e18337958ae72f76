"""The picture that is shown is the one in the model's tensors: resized, cropped and cut as its processor does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil, Qwen2VLImageProcessorPil

from tk_media.seen import GAP, seen


def picture(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def shown(processor: Any, image: Image.Image) -> np.ndarray:
    return np.asarray(seen(processor, dict(processor(images=[image], return_tensors="pt"))))


@pytest.mark.parametrize(("width", "height"), [(56, 84), (200, 120), (90, 300)])
@pytest.mark.parametrize("merge", [1, 2])
def test_patches_are_put_together(width: int, height: int, merge: int) -> None:
    processor = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=30000, merge_size=merge)
    found = shown(processor, picture(width, height))
    wanted = np.asarray(picture(width, height).resize(found.shape[1::-1], Image.Resampling.BICUBIC))
    assert found.shape[0] % (14 * merge) == 0
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 3


def test_a_crop_is_what_the_processor_crops() -> None:
    plain = CLIPImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, do_normalize=False, do_rescale=False
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    wanted = plain(images=[picture(96, 64)], return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
    assert np.abs(shown(processor, picture(96, 64)) - wanted.round()).max() <= 1


def test_tiles_stand_side_by_side() -> None:
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32]]
    )
    found = shown(processor, picture(128, 64))
    assert found.shape == (32, 3 * 32 + 2 * GAP, 3)
    assert (found[:, 32 : 32 + GAP] == 255).all()
