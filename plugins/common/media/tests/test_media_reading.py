"""Pictures out of files, bytes and data URLs: upright, RGB and whole, or an error that names the row."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from tk.config.sections import MediaSection
from tk.errors import DataError
from tk_media.reading import Reader

ROW = "rows.jsonl:7"
READER = Reader()
NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def saved(path: Path, picture: Image.Image | None = None, **how: object) -> Path:
    (picture or Image.fromarray(NOISE)).save(path, **how)
    return path


def read(source: str | bytes, reader: Reader = READER) -> Image.Image:
    """The picture of a source, which is found and measured before."""
    found = reader.find(source, ROW)
    picture = reader.picture(found, ROW)
    assert reader.size(found, ROW) == (picture.height, picture.width)
    assert picture.mode == "RGB"
    return picture


# --- where they come from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        lambda path: str(path),
        lambda path: f"file://{path}",
        lambda path: path.read_bytes(),
        lambda path: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        lambda path: f"data:image/png,{quote(path.read_bytes())}",
    ],
    ids=["path", "file URL", "bytes", "data URL, base64", "data URL, quoted"],
)
def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path, source: Callable[[Path], str | bytes]) -> None:
    path = saved(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read(source(path))), NOISE)


def test_a_path_begins_beside_the_data_file_then_where_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "data", tmp_path / "here"
    for folder in (beside, here):
        (folder / "pictures").mkdir(parents=True)
    (beside / "rows.jsonl").write_text("{}", "utf-8")
    monkeypatch.chdir(here)
    origin = f"{beside / 'rows.jsonl'}:1"
    saved(here / "pictures" / "a.png")
    assert READER.find("pictures/a.png", origin) == str(here / "pictures" / "a.png")
    saved(beside / "pictures" / "a.png")
    assert READER.find("pictures/a.png", origin) == str(beside / "pictures" / "a.png")


def test_a_root_is_where_all_relative_paths_begin(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}", "utf-8")
    saved(tmp_path / "a.png")
    (tmp_path / "root").mkdir()
    reader = Reader(MediaSection(root=str(tmp_path / "root")))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: there is no file .*root/a\.png \(media\.root"):
        reader.find("a.png", f"{tmp_path / 'rows.jsonl'}:1")
    saved(tmp_path / "root" / "a.png")
    assert reader.find("a.png", f"{tmp_path / 'rows.jsonl'}:1") == str(tmp_path / "root" / "a.png")
    assert reader.find(str(tmp_path / "a.png"), ROW) == str(tmp_path / "a.png")


def test_a_missing_file_is_told_with_every_place_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}", "utf-8")
    monkeypatch.chdir(tmp_path)
    origin = f"{tmp_path / 'rows.jsonl'}:3"
    with pytest.raises(DataError) as caught:
        READER.find("gone.png", origin)
    assert str(caught.value).startswith(f"{origin}: there is no file {tmp_path / 'gone.png'} and gone.png")
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: there is no file /gone\.png \("):
        READER.find("/gone.png", ROW)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: there is no file"):
        READER.find(str(tmp_path), ROW)


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:image/png;base64,@@@", "data:image/png;base64,abc"])
def test_a_broken_data_url(url: str) -> None:
    for look in (READER.size, READER.picture):
        with pytest.raises(DataError, match=r"^rows\.jsonl:7: a data URL cannot be read"):
            look(READER.find(url, ROW), ROW)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_never_more_than_an_error_about_the_row(content: bytes) -> None:
    for look in (READER.size, READER.picture):
        with pytest.raises(DataError, match=r"^rows\.jsonl:7: "):
            look(READER.find(content, ROW), ROW)


# --- what is wrong with them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    """When its size is read, where the format's end shows it, and else when it is decoded."""
    whole = saved(tmp_path / "whole", format=kind).read_bytes()
    part = tmp_path / "part"
    part.write_bytes(whole[: int(kept * len(whole))])
    look = READER.size if kind in ("JPEG", "PNG") else READER.picture
    with pytest.raises(DataError, match=rf"^rows\.jsonl:7: {part}"):
        look(str(part), ROW)


def test_a_picture_with_a_broken_middle_is_refused_when_it_is_decoded(tmp_path: Path) -> None:
    content = bytearray(saved(tmp_path / "a.png").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*a\.png cannot be read"):
        READER.picture(str(tmp_path / "a.png"), ROW)


@pytest.mark.parametrize("content", [b"", b"{}", b"GIF89a", "Ünïcode".encode("utf-16")])
def test_a_file_that_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: .*a\.png (is no picture of a known format|cannot be read)"):
        READER.size(str(tmp_path / "a.png"), ROW)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "limit", "reason"),
    [
        (20_000, 20_000, 100_000_000, "has more pixels than PIL opens"),
        (10_001, 10_000, 100_000_000, r"has 100,010,000 pixels, more than media\.pixel_limit"),
        (60, 41, 2459, r"has 2,460 pixels, more than media\.pixel_limit"),
    ],
)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    width: int, height: int, limit: int, reason: str
) -> None:
    reader = Reader(MediaSection(pixel_limit=limit))
    for look in (reader.size, reader.picture):
        with pytest.raises(DataError, match=rf"^rows\.jsonl:7: a picture in the row itself {reason}"):
            look(reader.find(claiming(width, height), ROW), ROW)


# --- what they look like ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", range(1, 9))
def test_how_a_camera_was_held(tmp_path: Path, turned: int) -> None:
    """All eight of EXIF's orientations are undone, in the size that is read from the header too."""
    back = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the transposition that makes of the upright picture the stored one
    stored = Image.fromarray(NOISE)
    if turned > 1:
        stored = stored.transpose(Image.Transpose(back[turned]))
    exif = Image.Exif()
    exif[0x0112] = turned
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(np.asarray(read(str(path))), NOISE)
    content = path.read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4])
    assert end < content.index(b"IDAT")
    path.write_bytes(content[:begin] + content[end:-12] + content[begin:end] + content[-12:])  # behind the pixels
    assert np.array_equal(np.asarray(read(str(path))), NOISE)
    assert np.array_equal(np.asarray(read(path.read_bytes())), NOISE)


def test_pixels_of_a_png_are_not_decoded_for_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("it is decoded"))
    assert READER.size(str(path), ROW) == (40, 60)


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    grey = (np.arange(60 * 40).reshape(40, 60) * 27).astype(np.uint16)
    picture = np.asarray(read(str(saved(tmp_path / "a.png", Image.fromarray(grey)))))
    assert np.array_equal(picture[..., 0], (grey >> 8).astype(np.uint8))
    assert np.array_equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    base = Image.fromarray(NOISE)
    picture = base.convert("L").convert(mode) if mode in ("PA", "LA", "I", "F") else base.convert(mode)
    path = saved(tmp_path / "a.tif", picture)
    found = np.asarray(read(str(path))).astype(int)
    assert found.shape == NOISE.shape
    if mode not in ("I", "F"):
        assert np.array_equal(found, np.asarray(Image.open(path).convert("RGB")))


def test_cmyk_jpegs(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (30, 20), (255, 0, 0, 0)))
    assert np.asarray(read(str(path)))[5, 5].tolist() == [0, 255, 255]


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (30, 20), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    path = saved(tmp_path / "a.png", picture, transparency=0)
    assert np.asarray(read(str(path)))[0, 0].tolist() == [200, 100, 50]


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "lime", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.asarray(read(str(path)))[0, 0].tolist() == [255, 0, 0]


def test_one_pixel() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(stream, "PNG")
    assert read(stream.getvalue()).size == (1, 1)


def test_what_cannot_be_a_path_is_told_with_the_row() -> None:
    with pytest.raises(
        DataError, match=r"^rows.jsonl:3: .* cannot be opened: File name too long.*data:;base64,"
    ) as told:
        Reader().find("iVBORw0KGgo" * 100, "rows.jsonl:3")
    assert len(str(told.value)) < 300


def test_more_may_stand_behind_a_picture(tmp_path: Path) -> None:
    """As in the motion photos of phones, where a video does."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30), "red").save(path)
    path.write_bytes(path.read_bytes() + b"film" * 2000)
    assert Reader().size(str(path), "") == (30, 40)
    assert Reader().picture(str(path), "").getpixel((5, 5))[0] > 250  # type: ignore[index]
