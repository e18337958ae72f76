"""From rows to batches: data sets, formats, templates, and what a batch is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from tk.contracts.media import MediaProcessor, Medium
from tk.sample import Message, Sample


@dataclass(frozen=True)
class Row:
    """A raw row and where it stands: `origin` is "file:line" (or "name:index")."""

    data: Any
    origin: str


class RowSet(Protocol):
    """An opened data set: random access, a length, and a fingerprint of its content (sha256 hex)."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Row: ...


@runtime_checkable
class Dataset(Protocol):
    """A named data set or a reader of files. Built as `target([options])`."""

    def open(self, path: str) -> RowSet:
        """Open the set. `path` is the file for a reader, "" for a named set. Raises DataError with file and line."""
        ...


@runtime_checkable
class Format(Protocol):
    """A shape of rows. Built as `target([options])`."""

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        """The row's meaning; columns that the format does not read become `extras`. The caller adds `origin`.

        Raises ValueError with the reason where the row has not this shape.
        """
        ...


@dataclass(frozen=True)
class Encoding:
    """A sample as tokens: `ids`, and for each the weight of predicting it (0: not trained); media in their order."""

    ids: Sequence[int]
    weights: Sequence[float]
    media: Sequence[Medium] = ()


class AnswerReader(Protocol):
    """Reads one answer as its tokens come."""

    def push(self, ids: Sequence[int]) -> str:
        """The text, in whole characters, that further tokens make sure to stand before any call of a tool."""
        ...


@runtime_checkable
class Template(Protocol):
    """A chat format. Built as `target([options], tokenizer=..., media=None)`; `media`: a MediaProcessor.

    Ids equal the checkpoint's own rendering for content without spellings of special tokens; content that spells a
    special token is encoded as text. A medium stands where its part does, as the tokens that its processor gives.
    """

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        """Tokens of each sample's conversation. `generation`: up to where the assistant begins to speak, no weights.

        Raises DataError, naming `sample.origin`, where a conversation cannot be rendered.
        """
        ...

    def extend(self, ids: Sequence[int], messages: Sequence[Message]) -> Encoding:
        """`ids` (as sampled, never rendered again) followed by further messages, ready for the assistant to go on."""
        ...

    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end the assistant's turn."""
        ...

    def read(self, ids: Sequence[int]) -> Message:
        """What the assistant has said by tokens that were sampled: text, and calls of tools."""
        ...

    def reader(self) -> AnswerReader:
        """For an answer on its way: the pieces joined are what the text of `read` begins with."""
        ...


@dataclass(frozen=True)
class Limit:
    """The longest example, and what becomes of a longer one: an error, dropped, cut on a side, or split.

    positions: that the model has, for methods that put more after an example.
    """

    max_length: int | None = None
    truncation: Literal["error", "drop", "left", "right", "split"] = "error"
    positions: int | None = None


@dataclass(frozen=True)
class Example:
    """What a method makes of a sample and the source stores: plain arrays, no padding.

    length: tokens it takes in a row; what packing and sorting go by.
    repeated: tokens that it takes more where a beginning that its sequences share does not stand in a row only once.
    values: arrays by name, read by the method's own `collate`.
    weights: what it adds to the normaliser of each of the method's terms.
    origin: as in the sample. media: of its row, where they start in it.
    """

    length: int
    values: Mapping[str, Any]
    weights: Mapping[str, float]
    origin: str = ""
    media: Sequence[Medium] = ()
    repeated: int = 0


@dataclass(frozen=True)
class Layout:
    """How rows are laid out as tensors.

    packing: rows hold several examples that must not see one another.
    shared_prefix: sequences that begin alike may stand in one row, their beginning only once. shared_from: they do in a
        batch whose beginnings hold this many times the tokens of their endings.
    media: of the model, where it takes any. touch: types of media that the data holds; batches without run an idle one.
    """

    pad_id: int
    side: Literal["left", "right"] = "right"
    packing: bool = False
    multiple: int = 1
    shared_prefix: bool = False
    shared_from: float = 0.5
    media: MediaProcessor | None = None
    touch: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank.

    inputs: arguments of the model's forward (input_ids [B, T], attention_mask, position_ids [B, T] or [axes, B, T],
        media …), and `idle`, media of no sample by their types.
    fields: what the head and the loss read. Token methods: `select` [N] (flat positions in B·T whose hidden state
        predicts), `targets` [N], `token_weights` [N], `rows` [N] (sample of each).
    weights: what it adds to the normaliser of each term, known before any forward.
    rows: R, the number of samples. tokens: tokens that are not padding.
    filler: gives this rank as many batches as the others; it is run, and counts for nothing.
    origins: of its rows' samples, for errors; set by the source.
    """

    inputs: Mapping[str, Any]
    fields: Mapping[str, Any]
    weights: Mapping[str, float]
    rows: int
    tokens: int = 0
    filler: bool = False
    origins: Sequence[str] = ()
