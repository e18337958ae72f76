"""Where media come from: paths, URLs, data URLs and bytes; and pictures out of them, upright and RGB."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tk.config.sections import MediaSection
from tk.errors import DataError, UsageError
from tk_media.fetch import fetched

ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)
"""The EXIF tag of how a camera was held, and its values where width and height are exchanged."""
TAIL = 4096
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""What stands at the end of a whole file."""
TELLING = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG that may tell how it was held."""


@dataclass(frozen=True)
class Reader:
    """Finds media and opens pictures, within what `section` allows."""

    section: MediaSection = field(default_factory=MediaSection)

    def find(self, source: str | bytes, origin: str) -> str:
        """What can be opened again without looking: an absolute path, or a data URL. Raises DataError."""
        if isinstance(source, bytes):
            return f"data:;base64,{base64.b64encode(source).decode()}"
        if source.startswith("data:"):
            return source
        if source.startswith(("http://", "https://")):
            with _placed(origin):
                return str(fetched(source, self.section))
        path = Path(source.removeprefix("file://")).expanduser()
        tried = [path] if path.is_absolute() else [folder / path for folder in self._folders(origin)]
        for place in tried:
            try:
                if place.is_file():
                    return str(place.resolve())
            except OSError as error:  # no possible name, or a folder that may not be read
                raise DataError(
                    f"{origin}: {str(place)[:80]!r} cannot be opened: {error.strerror}. A picture in the row itself "
                    "is bytes, or base64 behind 'data:;base64,'."
                ) from error
        where = " and ".join(str(place) for place in dict.fromkeys(tried))
        raise DataError(f"{origin}: there is no file {where} (media.root: where relative paths begin).")

    def stream(self, source: str, origin: str) -> io.BytesIO | str:
        """What decoders open: the path, or the bytes of a data URL. Raises DataError for one that is broken."""
        return _stream(source, origin)

    def name(self, source: str, what: str = "picture") -> str:
        """How a medium is called in messages."""
        return f"a {what} in the row itself" if source.startswith("data:") else source

    def size(self, source: str, origin: str) -> tuple[int, int]:
        """(height, width) of a picture, upright, from its header. Raises DataError for one that is cut off or too large."""
        with self._opened(source, origin) as picture:
            width, height = picture.size
            if _lacks_end(source, picture.format):
                picture.load()  # raises for one that is cut off; others have more behind the picture
            if _exif(picture, source).get(ORIENTATION) in SIDEWAYS:
                width, height = height, width
        return height, width

    def picture(self, source: str, origin: str) -> Image.Image:
        """The whole picture. Raises DataError where it cannot be decoded."""
        with self._opened(source, origin) as picture:
            if picture.mode.startswith("I"):
                picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
            upright = ImageOps.exif_transpose(picture)
            return upright if upright.mode == "RGB" else upright.convert("RGB")

    def _folders(self, origin: str) -> list[Path]:
        if self.section.root:
            return [Path(self.section.root).expanduser()]
        file, _, line = origin.rpartition(":")
        beside = [Path(file).parent] if line.isdigit() and Path(file).is_file() else []
        return [*beside, Path()]

    @contextmanager
    def _opened(self, source: str, origin: str) -> Iterator[Image.Image]:
        """A picture whose header was read; what PIL says of it and of its data as an error about the row."""
        name = self.name(source)
        try:
            with Image.open(_stream(source, origin)) as picture:
                pixels = picture.size[0] * picture.size[1]
                if pixels > self.section.pixel_limit:
                    raise DataError(f"{origin}: {name} has {pixels:,} pixels, more than media.pixel_limit.")
                yield picture
        except UnidentifiedImageError as error:
            raise DataError(f"{origin}: {name} is no picture of a known format.") from error
        except Image.DecompressionBombError as error:
            raise DataError(f"{origin}: {name} has more pixels than PIL opens: {error}") from error
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise DataError(f"{origin}: {name} cannot be read: {error}") from error


@contextmanager
def _placed(origin: str) -> Iterator[None]:
    """Errors about a source with the row in front."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{origin}: {error}") from error
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


def _stream(source: str, origin: str) -> io.BytesIO | str:
    if not source.startswith("data:"):
        return source
    head, comma, body = source.partition(",")
    try:
        if not comma:
            raise ValueError("there is no comma")
        return io.BytesIO(base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body))
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{origin}: a data URL cannot be read: {error}") from error


def _lacks_end(source: str, kind: str | None) -> bool:
    """Whether a picture's file does not end as whole ones do, for formats that have such an end."""
    end = ENDS.get(kind or "")
    if end is None:
        return False
    with _file(source) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - TAIL))
        return end not in file.read()


def _exif(picture: Image.Image, source: str) -> Image.Exif:
    """PIL decodes a PNG for what may stand behind its pixels; few have anything there."""
    if picture.format != "PNG" or _tells_more_behind(source):
        return picture.getexif()
    return Image.Image.getexif(picture)


def _tells_more_behind(source: str) -> bool:
    """Whether a PNG has EXIF, or text in which it may be, behind its pixels (chunks: W3C PNG 3rd edition, section 5.3)."""
    pixels = False
    with _file(source) as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            if pixels and kind in TELLING:
                return True
            pixels |= kind == b"IDAT"
            file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)  # and its checksum
    return False


def _file(source: str) -> BinaryIO:
    stream = _stream(source, "")
    return open(stream, "rb") if isinstance(stream, str) else stream
