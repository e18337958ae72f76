"""A MediaProcessor over transformers' own image processor: what is common to vision-language models.

What a family adds: the tokens that stand for a picture of a size, positions where the model does more than count, and
how pictures are given to the processor where they are not taken one by one.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from tk.contracts import Medium
from tk.errors import DataError, TkError
from tk.files import explained
from tk.sample import Part
from tk_auto.quiet import quiet
from tk_media.reading import Reader
from tk_media.seen import seen

FILES = ("processor_config.json", "video_preprocessor_config.json", "chat_template.json")
"""What else of a checkpoint's folder belongs to its processor."""
IDLE = 32
"""Side of the blank picture that a rank without pictures runs."""

Positions = Callable[[Sequence[int], Sequence[Medium]], np.ndarray]
Prepare = Callable[[Any, Sequence[Image.Image], Sequence[Medium]], Mapping[str, Tensor]]


def one_by_one(processor: Any, pictures: Sequence[Image.Image], media: Sequence[Medium]) -> Mapping[str, Tensor]:
    """Each picture by itself, whatever else its sample holds."""
    return dict(processor(images=list(pictures), return_tensors="pt"))


@dataclass(frozen=True)
class Pictures:
    """Pictures of one model.

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

    def placeholder(self, type: str) -> str:
        return self.surround[type]

    def open(self, parts: Sequence[Part], origin: str) -> list[Medium]:
        media = []
        for part in parts:
            if part.type not in self.marks:
                raise DataError(f"{origin}: holds {part.type}, and this model takes {', '.join(self.marks)} only.")
            if part.source is None:
                raise DataError(f"{origin}: an {part.type} has no source: give a path, a URL or bytes.")
            source = self.reader.find(part.source, origin)
            among = sum(other.type == part.type for other in parts)
            media.append(Medium(part.type, source, self.reader.size(source, origin), among=among, origin=origin))  # type: ignore[arg-type]
        return media

    def tokens(self, media: Sequence[Medium]) -> list[Sequence[int]]:
        return [self._spelled(medium) for medium in media]

    def positions(self, ids: Sequence[int], media: Sequence[Medium]) -> np.ndarray | None:
        return None if self.place is None else self.place(ids, media)

    def tensors(self, media: Sequence[Medium]) -> Mapping[str, Tensor]:
        if not media:
            return {}
        pictures = [self.reader.picture(medium.source, medium.origin) for medium in media]
        return self.prepare(self.processor, pictures, media)

    def seen(self, medium: Medium) -> bytes:
        if medium.type != "image":
            return b""
        out = io.BytesIO()
        seen(self.processor, self.tensors([medium])).save(out, "PNG")
        return out.getvalue()

    def idle(self) -> Mapping[str, Tensor]:
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
            raise DataError(f"{medium.origin}: a picture of {width}×{height} pixels: {error}") from error


def _write(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def image_processor(folder: Path, **changes: Any) -> Any:
    """The checkpoint's image processor, on PIL. Raises TkError where it has none."""
    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, **changes)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise TkError(f"{folder} has no image processor that transformers opens: {error}") from error
