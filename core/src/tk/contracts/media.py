"""Pictures, videos and sounds: what stands for them among the tokens, and as which tensors a model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.sample import Part

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Medium:
    """A medium of a sequence of tokens. It is read when tensors are made of it, not before.

    source: what it is read from: a path or a data URL. size: (height, width) in pixels, upright; of a video with
        the number of frames that are taken in front.
    start, length: the tokens of the sequence that stand for it, from the first to the last.
    among: how many media of its type its sample holds. facts: what else was found out when it was opened, JSON-able.
    """

    type: Literal["image", "video", "audio"]
    source: str
    size: tuple[int, ...] = ()
    start: int = 0
    length: int = 0
    among: int = 1
    facts: Mapping[str, Any] | None = None
    origin: str = ""


@runtime_checkable
class MediaProcessor(Protocol):
    """How a model takes media: made by its family when it is loaded, in `LoadedModel.media`.

    marks: type -> id of the token that stands for a medium in a rendered conversation, once; types that are not there
        the model does not take.
    """

    marks: Mapping[str, int]

    def placeholder(self, type: str) -> str:
        """What a chat format writes for a medium: the mark, and what belongs around it."""
        ...

    def open(self, parts: Sequence[Part], origin: str) -> list[Medium]:
        """A sample's media, their sizes read. Raises DataError, naming `origin`, for what cannot be had or is broken."""
        ...

    def tokens(self, media: Sequence[Medium]) -> list[Sequence[int]]:
        """The ids that take the place of each one's mark; `media` are all of a sample."""
        ...

    def positions(self, ids: Sequence[int], media: Sequence[Medium]) -> np.ndarray | None:
        """[axes, L] positions of a sequence, the first axis counting tokens; None where a model only counts them."""
        ...

    def tensors(self, media: Sequence[Medium]) -> Mapping[str, Tensor]:
        """The model's inputs for media in this order. Raises DataError where one cannot be decoded."""
        ...

    def seen(self, medium: Medium, longest: int = 0) -> bytes:
        """The picture as the model sees it (turned, resized, cut into tiles side by side), as PNG; b"" of what is none.

        longest: shrunk until its longer side has no more pixels (0: as it is).
        """
        ...

    def idle(self, type: str) -> Mapping[str, Tensor]:
        """`tensors` of a small blank medium: what a rank without any runs, so that all ranks run the same modules."""
        ...

    def save(self, folder: str) -> None:
        """Write what belongs to it into a checkpoint's folder."""
        ...
