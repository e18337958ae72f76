"""Media of a conversation among its tokens: marks in rendered text, and the tokens that take their places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tk.contracts import Encoding, MediaProcessor, Medium
from tk.errors import DataError
from tk.sample import Message, Part, Sample
from tk_text.messages import located, text_of

MARKS = {"image": "\U0010fffd", "video": "\U0010fffc", "audio": "\U0010fffb"}
"""Stand for media in a message's text until a template has written their placeholders."""
TYPES = {mark: type for type, mark in MARKS.items()}
_MARK = re.compile(f"([{''.join(TYPES)}])")


def media_of(messages: Sequence[Message]) -> list[Part]:
    """Parts of a conversation that are not text, in order."""
    return [p for m in messages if not isinstance(m.content, str) for p in m.content if p.type != "text"]


def marked(message: Message, media: MediaProcessor | None, origin: str) -> str:
    """A message's text with a mark for each medium. Raises DataError for media where the model takes none."""
    if media is None:
        return text_of(message, origin)
    if _MARK.search(message.text):
        raise DataError(
            located(origin, "content holds a character that marks media (U+10FFFB to U+10FFFD): take it out.")
        )
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text if part.type == "text" else MARKS[part.type] for part in message.content)


def split(text: str, marks: bool) -> Iterator[tuple[str, str]]:
    """(type, text) of the pieces of a text: ("text", words), and where it may hold marks ("image", "")."""
    for piece in _MARK.split(text) if marks else [text]:
        if marks and piece in TYPES:
            yield TYPES[piece], ""
        elif piece:
            yield "text", piece


def has_media(text: str) -> bool:
    return _MARK.search(text) is not None


def expanded(encodings: Sequence[Encoding], samples: Sequence[Sample], media: MediaProcessor | None) -> list[Encoding]:
    """Encodings with the tokens that their samples' media take, in place of the one mark that was rendered for each."""
    if media is None:
        return list(encodings)
    pairs = zip(encodings, samples, strict=True)
    return [expand(encoding, media_of(sample.messages), media, sample.origin) for encoding, sample in pairs]


def appended(ids: Sequence[int], more: Encoding, messages: Sequence[Message], media: MediaProcessor | None) -> Encoding:
    """`ids` followed by the encoding of further messages, with those messages' media where they then start."""
    if media is not None:
        more = expand(more, media_of(messages), media, "the message")
    moved = tuple(replace(medium, start=medium.start + len(ids)) for medium in more.media)
    return Encoding([*ids, *more.ids], [0.0] * (len(ids) + len(more.ids)), moved)


def expand(encoding: Encoding, parts: Sequence[Part], media: MediaProcessor, origin: str) -> Encoding:
    """Raises DataError where parts cannot be had, or the template wrote another number of marks."""
    kinds = {token: type for type, token in media.marks.items()}
    opened = media.open(parts, origin) if parts else []
    waiting: dict[str, list[tuple[Medium, Sequence[int]]]] = {type: [] for type in kinds.values()}
    for medium, tokens in zip(opened, media.tokens(opened) if opened else [], strict=True):
        waiting[medium.type].append((medium, tokens))
    written = {type: sum(kinds.get(token) == type for token in encoding.ids) for type in waiting}
    for type, pairs in waiting.items():
        if written[type] != len(pairs):
            raise DataError(
                located(
                    origin,
                    f"the row has {len(pairs)} {type} parts, and {written[type]} places of one are written by the chat template.",
                )
            )
    ids: list[int] = []
    weights: list[float] = []
    placed: list[Medium] = []
    for token, weight in zip(encoding.ids, encoding.weights, strict=True):
        if token not in kinds:
            ids.append(token)
            weights.append(weight)
            continue
        medium, tokens = waiting[kinds[token]].pop(0)
        placed.append(replace(medium, start=len(ids), length=len(tokens)))
        ids += tokens
        weights += [0.0] * len(tokens)
    return Encoding(ids, weights, tuple(placed)) if placed else encoding
