"""A MediaProcessor over transformers' own image processor: what is common to vision-language models.

What a family adds: the tokens that stand for a picture of a size, positions where the model does more than count, and
how pictures are given to the processor where they are not taken one by one.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from tk.contracts import Medium
from tk.errors import DataError, TkError
from tk.files import explained
from tk.sample import Part
from tk_auto.quiet import quiet
from tk_media.films import Film, described, frames
from tk_media.reading import Reader
from tk_media.seen import beside, seen

FILES = ("processor_config.json", "video_preprocessor_config.json", "chat_template.json")
"""What else of a checkpoint's folder belongs to its processor."""
IDLE = 32
"""Side of what a rank without pictures or videos runs."""

SHOWN = 8
"""Frames of a video that are shown."""

Positions = Callable[[Sequence[int], Sequence[Medium]], np.ndarray]
Prepare = Callable[[Any, Sequence[Image.Image], Sequence[Medium]], Mapping[str, Tensor]]


def one_by_one(processor: Any, pictures: Sequence[Image.Image], media: Sequence[Medium]) -> Mapping[str, Tensor]:
    """Each picture by itself, whatever else its sample holds."""
    return dict(processor(images=list(pictures), return_tensors="pt"))


class Videos(Protocol):
    """How one model takes videos."""

    def taken(self, film: Film) -> Sequence[int]:
        """Numbers of the frames that it sees."""
        ...

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) in which it sees so many frames of this size. Raises ValueError for what it does not take."""
        ...

    def tensors(self, videos: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The model's inputs for resized videos, [n, 3, H, W] uint8 each."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Pictures of one model, and its videos where it takes any.

    processor: transformers' image processor. folder: of the checkpoint. marks, surround: the token id that stands for
    a picture, and what a chat format writes for one. ids: what takes the place of that token, by the picture's size.
    place: [axes, L] positions.
    """

    reader: Reader
    processor: Any
    folder: Path
    marks: Mapping[str, int]
    surround: Mapping[str, str]
    ids: Callable[[Medium], Sequence[int]]
    place: Positions | None = None
    prepare: Prepare = one_by_one
    videos: Videos | None = None

    def placeholder(self, type: str) -> str:
        return self.surround[type]

    def open(self, parts: Sequence[Part], origin: str) -> list[Medium]:
        media = []
        for part in parts:
            if part.type not in self.marks:
                raise DataError(f"{origin}: holds {part.type}, and this model takes {', '.join(self.marks)} only.")
            if part.source is None:
                raise DataError(f"{origin}: a part of type {part.type} has no source: give a path, a URL or bytes.")
            source = self.reader.find(part.source, origin)
            among = sum(other.type == part.type for other in parts)
            if part.type == "video":
                media.append(replace(self._film(source, origin), among=among))
            else:
                media.append(Medium("image", source, self.reader.size(source, origin), among=among, origin=origin))
        return media

    def _film(self, source: str, origin: str) -> Medium:
        assert self.videos is not None
        film = described(self.reader, source, origin)
        taken = list(self.videos.taken(film))
        facts = {"taken": taken, "frames": film.frames, "rate": film.rate}
        return Medium("video", source, (len(taken), film.height, film.width), facts=facts, origin=origin)

    def tokens(self, media: Sequence[Medium]) -> list[Sequence[int]]:
        return [self._spelled(medium) for medium in media]

    def positions(self, ids: Sequence[int], media: Sequence[Medium]) -> np.ndarray | None:
        return None if self.place is None else self.place(ids, media)

    def tensors(self, media: Sequence[Medium]) -> Mapping[str, Tensor]:
        images, films = ([m for m in media if m.type == type] for type in ("image", "video"))
        found: dict[str, Tensor] = {}
        if images:
            pictures = [self.reader.picture(medium.source, medium.origin) for medium in images]
            found |= self.prepare(self.processor, pictures, images)
        if films:
            assert self.videos is not None
            found |= self.videos.tensors([self._frames(medium) for medium in films])
        return found

    def _frames(self, medium: Medium) -> Tensor:
        """[n, 3, H, W] uint8 of a video, as the model sees it."""
        assert self.videos is not None
        assert medium.facts is not None
        size = self.videos.size(*medium.size)
        return frames(self.reader, medium.source, medium.facts["taken"], medium.origin, size)

    def seen(self, medium: Medium, longest: int = 0) -> bytes:
        out = io.BytesIO()
        if medium.type == "video":
            shown = self._frames(medium)
            picture = beside(shown[:: -(-len(shown) // SHOWN)].permute(0, 2, 3, 1).numpy())
        else:
            picture = seen(self.processor, self._alone(medium))
        if longest:
            picture.thumbnail((longest, longest))
        picture.save(out, "PNG")
        return out.getvalue()

    def _alone(self, medium: Medium) -> Mapping[str, Tensor]:
        """The tensors of one picture, as it is prepared beside others where it has some."""
        count = min(medium.among, 2)
        tensors = dict(self.tensors([medium] * count))
        return {name: value[: len(value) // count] for name, value in tensors.items()}

    def idle(self, type: str) -> Mapping[str, Tensor]:
        if type == "video":
            assert self.videos is not None
            return self.videos.tensors([torch.zeros(2, 3, *self.videos.size(2, IDLE, IDLE), dtype=torch.uint8)])
        blank = Image.new("RGB", (IDLE, IDLE))
        return self.prepare(self.processor, [blank], [Medium("image", "", (IDLE, IDLE))])

    def save(self, folder: str) -> None:
        own = self.processor.to_dict()
        own["image_processor_type"] = own["image_processor_type"].removesuffix(
            "Pil"
        )  # the name that every version knows
        with explained(Path(folder)):
            for name in FILES:
                if (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, Path(folder) / name)
            _write(Path(folder) / "preprocessor_config.json", own)
            whole = Path(folder) / "processor_config.json"
            if whole.is_file() and "image_processor" in (known := json.loads(whole.read_text(encoding="utf-8"))):
                _write(whole, {**known, "image_processor": own})

    def _spelled(self, medium: Medium) -> Sequence[int]:
        try:
            return self.ids(medium)
        except ValueError as error:  # what transformers says of sizes that a model does not take
            height, width = medium.size[-2:]
            what = f"a video of {medium.size[0]} frames" if medium.type == "video" else "a picture"
            raise DataError(f"{medium.origin}: {what} of {width}×{height} pixels: {error}") from error


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def image_processor(folder: Path, **changes: Any) -> Any:
    """The checkpoint's image processor, on PIL. Raises TkError where it has none."""
    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, **changes)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise TkError(f"{folder} has no image processor that transformers opens: {error}") from error
