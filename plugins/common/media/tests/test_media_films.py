"""Videos: what they are and their frames, upright; and what is said of bad ones."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tk.config.sections import MediaSection
from tk.errors import DataError, TkError
from tk_media.films import Film, described, frames, normalised, resized, video_settings
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
    found = frames(reader, path, [1, 4, 4, 8], "rows.jsonl:1", (HEIGHT, WIDTH)).permute(0, 2, 3, 1).numpy()
    assert found.shape == (4, HEIGHT, WIDTH, 3)
    assert [int(frame[-8:].mean()) for frame in found] == pytest.approx([20, 80, 80, 160], abs=8)
    assert found[0, :8, :8].min() > 240


def test_a_video_in_the_row_itself(reader: Reader, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.mp4"))
    inline = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    assert described(reader, inline, "rows.jsonl:1").frames == FRAMES
    size = (HEIGHT // 2, WIDTH)
    assert torch.equal(frames(reader, inline, [2], "", size), frames(reader, str(path), [2], "", size))


def test_a_phone_held_upright(reader: Reader, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.mp4"))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version 0: times and number, reserved, layer to volume
    content[at : at + len(TURNED)] = TURNED
    path.write_bytes(content)
    assert described(reader, str(path), "") == Film(FRAMES, RATE, WIDTH, HEIGHT)
    frame = frames(reader, str(path), [0], "", (WIDTH, HEIGHT))[0].permute(1, 2, 0).numpy()
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
        frames(reader, str(path), [1, 20], "rows.jsonl:3", (HEIGHT, WIDTH))
    path.write_bytes(b"no film" * 100)
    with pytest.raises(DataError, match=r"^rows.jsonl:3: .*a.mp4 cannot be read as a video"):
        described(reader, str(path), "rows.jsonl:3")


def test_settings_of_a_checkpoint_are_those_that_are_set(tmp_path: Path) -> None:
    assert video_settings(tmp_path) == {}
    stored = {"min_pixels": None, "size": {"longest_edge": 9}, "fps": 2}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(stored))
    assert video_settings(tmp_path) == {"size": {"longest_edge": 9}, "fps": 2}
    (tmp_path / "video_preprocessor_config.json").write_text("{")
    with pytest.raises(TkError, match=r"video_preprocessor_config\.json is no JSON"):
        video_settings(tmp_path)


def test_pixels_in_the_range_of_the_model() -> None:
    pixels = resized(np.full((10, 20, 3), 255, dtype=np.uint8), 5, 6)
    assert pixels.shape == (3, 5, 6)
    found = normalised(pixels[None], (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 1 / 255)
    assert found[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 1.0])
