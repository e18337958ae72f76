"""Videos: what they are and their frames, upright; and what is said of bad ones."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tk.config.sections import MediaSection
from tk.errors import DataError
from tk_media.films import Film, described, frames, normalised, resized
from tk_media.reading import Reader

av = pytest.importorskip("av", reason="PyAV is not installed")
HEIGHT, WIDTH, FRAMES, RATE = 32, 64, 9, 5
TURNED = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
"""The matrix of an MP4 track that is to be turned a quarter clockwise, as phones write it."""


def write(path: Path, codec: str = "mpeg4") -> str:
    """Each frame is a shade of grey, and its upper left quarter white."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            picture = np.full((HEIGHT, WIDTH, 3), 20 * number, dtype=np.uint8)
            picture[: HEIGHT // 2, : WIDTH // 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


@pytest.fixture
def reader() -> Reader:
    return Reader(MediaSection())


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx")])
def test_frames_by_their_numbers(reader: Reader, tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, codec)
    film = described(reader, path, "rows.jsonl:1")
    assert film == Film(FRAMES, RATE, HEIGHT, WIDTH)
    found = frames(reader, path, [1, 4, 4, 8], "rows.jsonl:1")
    assert found.shape == (4, HEIGHT, WIDTH, 3)
    assert [int(frame[-8:].mean()) for frame in found] == pytest.approx([20, 80, 80, 160], abs=8)
    assert found[0, :8, :8].min() > 240


def test_a_video_in_the_row_itself(reader: Reader, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.mp4"))
    inline = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    assert described(reader, inline, "rows.jsonl:1").frames == FRAMES
    assert np.array_equal(frames(reader, inline, [2], ""), frames(reader, str(path), [2], ""))


def test_a_phone_held_upright(reader: Reader, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.mp4"))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version 0: times and number, reserved, layer to volume
    content[at : at + len(TURNED)] = TURNED
    path.write_bytes(content)
    assert described(reader, str(path), "") == Film(FRAMES, RATE, WIDTH, HEIGHT)
    (frame,) = frames(reader, str(path), [0], "")
    assert frame.shape == (WIDTH, HEIGHT, 3)
    white = [frame[:8, :8].min() > 240, frame[:8, -8:].min() > 240, frame[-8:, :8].min() > 240]
    assert white == [False, True, False]  # the left end of a row becomes its upper end, and what was above is right


def test_bad_videos_are_told(reader: Reader, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.mp4"))
    small = Reader(replace(reader.section, pixel_limit=100))
    with pytest.raises(
        DataError, match=r"^rows.jsonl:3: .*a.mp4 has 2,048 pixels a frame, more than media.pixel_limit"
    ):
        described(small, str(path), "rows.jsonl:3")
    with pytest.raises(DataError, match=r"^rows.jsonl:3: .*a.mp4 is cut off: frame 20 is missing"):
        frames(reader, str(path), [1, 20], "rows.jsonl:3")
    path.write_bytes(b"no film" * 100)
    with pytest.raises(DataError, match=r"^rows.jsonl:3: .*a.mp4 cannot be read as a video"):
        described(reader, str(path), "rows.jsonl:3")


def test_pixels_in_the_range_of_the_model() -> None:
    pixels = resized(np.full((2, 10, 20, 3), 255, dtype=np.uint8), 5, 6)
    assert pixels.shape == (2, 3, 5, 6)
    found = normalised(pixels, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 1 / 255)
    assert found[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 1.0])
