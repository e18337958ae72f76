"""Videos: how long and large they are, and frames out of them, upright and RGB. Decoding is PyAV's, which is optional."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tk.errors import DataError, TkError, UsageError
from tk_media.reading import Reader

SIDEWAYS = (90, 270)
FILES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", ""),
    ("preprocessor_config.json", ""),
)
"""Where a checkpoint keeps the settings of its video processor, what counts first; and under which key."""


@dataclass(frozen=True)
class Film:
    """What a video's file says of it. frames: all that it has. rate: frames a second. height, width: upright."""

    frames: int
    rate: float
    height: int
    width: int


def video_settings(folder: Path) -> Mapping[str, Any]:
    """What a checkpoint says of its video processor, as transformers finds it. Raises TkError for a broken file."""
    for name, key in FILES:
        if (folder / name).is_file():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise TkError(f"{folder / name} is no JSON: {error}") from error
            found = found.get(key) if key else found
            if isinstance(found, dict):
                return {setting: value for setting, value in found.items() if value is not None}
    return {}


def described(reader: Reader, source: str, origin: str) -> Film:
    """What a video is, by its first frame and its header. Raises DataError for one that cannot be read or is too large."""
    with _opened(reader, source, origin) as (container, stream):
        _within(reader, stream.width, stream.height, source, origin)  # as the header has it, before anything is decoded
        first = next(container.decode(stream), None)
        if first is None:
            raise DataError(f"{origin}: {reader.name(source, 'video')} has no frame.")
        count = stream.frames or 1 + sum(1 for _ in container.decode(stream))  # some containers do not count them
        size = (first.height, first.width)
        height, width = size[::-1] if _turned(first) in SIDEWAYS else size
        _within(reader, width, height, source, origin)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise DataError(f"{origin}: {reader.name(source, 'video')} does not say how many frames a second it has.")
        return Film(int(count), float(rate), height, width)


def _within(reader: Reader, width: int, height: int, source: str, origin: str) -> None:
    if height * width > reader.section.pixel_limit:
        raise DataError(
            f"{origin}: {reader.name(source, 'video')} has {height * width:,} pixels a frame, more than media.pixel_limit."
        )


def frames(reader: Reader, source: str, indices: Sequence[int], origin: str, size: tuple[int, int]) -> Tensor:
    """[n, 3, height, width] uint8 of `size`, the frames of these numbers (ascending); only one is held in its own size.

    Raises DataError where one cannot be decoded.
    """
    wanted, found = set(indices), {}
    with _opened(reader, source, origin) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = resized(np.rot90(frame.to_ndarray(format="rgb24"), _turned(frame) // 90), *size)
            if number >= indices[-1]:
                break
    missing = [index for index in indices if index not in found]
    if missing:
        raise DataError(f"{origin}: {reader.name(source, 'video')} is cut off: frame {missing[0]} is missing.")
    return torch.stack([found[index] for index in indices])


def resized(frame: np.ndarray, height: int, width: int) -> Tensor:
    """[3, height, width] uint8 of [H, W, 3], as torchvision's `resize` does it: bicubic, with antialiasing."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))
    if pixels.shape[1:] == (height, width):
        return pixels
    return F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)[0]


def normalised(pixels: Tensor, mean: Sequence[float], deviation: Sequence[float], rescale_factor: float) -> Tensor:
    """float32, computed as transformers' video processors do, to the last bit. pixels: [n, 3, H, W] uint8."""
    shift, scale = (torch.tensor(values)[:, None, None] * (1.0 / rescale_factor) for values in (mean, deviation))
    return (pixels.float() - shift) / scale


def _turned(frame: Any) -> int:
    """Degrees, counter-clockwise, by which a frame is to be turned to stand upright."""
    return int(getattr(frame, "rotation", 0)) % 360


@contextmanager
def _opened(reader: Reader, source: str, origin: str) -> Iterator[tuple[Any, Any]]:
    """A container and its stream of pictures."""
    try:
        import av
    except ImportError as error:
        raise UsageError(f"{origin}: videos need PyAV: pip install 'tk-plugin-media[video]'") from error
    name = reader.name(source, "video")
    try:
        with av.open(reader.stream(source, origin)) as container:
            if not container.streams.video:
                raise DataError(f"{origin}: {name} holds no pictures.")
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{origin}: {name} cannot be read as a video: {error}") from error
