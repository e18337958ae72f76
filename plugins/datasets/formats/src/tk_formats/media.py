"""Pictures, videos and sounds in columns of a row, and the places in its text where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from tk.sample import Message, Part, Sample
from tk_formats.turns import as_list, source_of, type_of

COLUMNS: Mapping[str, tuple[str, str]] = {
    "image": ("images", "image"),
    "video": ("videos", "video"),
    "audio": ("audios", "audio"),
}
"""By type of media: the columns that hold a row's. In text, `<image>` is the place of one (ms-swift, LLaMA-Factory)."""
REJECTED = "rejected_"
"""What the columns of a rejected conversation with media of its own begin with."""

Read = Callable[[Any, Mapping[str, Any]], Sample]
Media = Mapping[str, list[str | bytes]]
"""Sources by type of media, in order."""


def with_media(read: Read) -> Read:
    """A format's `__call__` with media: in columns (`images`, …) whose places are tags or parts without a source.

    Without any place in a row, they stand before its first user message. A tag in a row without media is text.
    """

    @wraps(read)
    def reading(self: Any, row: Mapping[str, Any]) -> Sample:
        media, worse = _media(row, ""), _media(row, REJECTED)
        columns = {start + name for names in COLUMNS.values() for name in names for start in ("", REJECTED)}
        sample = read(self, {name: value for name, value in row.items() if name not in columns})
        sample = replace(sample, extras={**sample.extras, **{n: v for n, v in row.items() if n in columns}})
        return _checked(_placed(sample, media, worse) if media or worse else sample)

    return reading


def _media(row: Mapping[str, Any], start: str) -> Media:
    found: dict[str, list[str | bytes]] = {}
    for kind, names in COLUMNS.items():
        given = [start + name for name in names if row.get(start + name) not in (None, "", [], ())]
        if len(given) > 1:
            raise ValueError(f"there are both {given[0]} and {given[1]}: keep one")
        if given:
            found[kind] = list(_sources(row[given[0]], given[0]))
    return found


def _sources(value: Any, column: str) -> Iterator[str | bytes]:
    """Of one medium or a list of them: paths, URLs, data URLs, bytes, or objects with one of these."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = as_list(value, column)
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    for i, each in enumerate(value if several else [value]):
        source = source_of(each)
        if source is None:
            where = f"{column}[{i}]" if several else column
            raise ValueError(f"{where} must be a path, a URL or bytes, not {type_of(each)}")
        yield source


def _placed(sample: Sample, media: Media, worse: Media) -> Sample:
    """The sample with its media where they belong; text becomes a message, since only messages have parts."""
    if sample.text:
        sample = replace(sample, text="", messages=(Message("user", sample.text),))
    kinds = {*media, *worse}
    prompt = _marked(sample.messages[: sample.shared], kinds)
    better = _marked(sample.messages[sample.shared :], kinds)
    whole = _filled(_opened((*prompt, *better), media), media, "")
    if not sample.rejected:
        return replace(sample, messages=whole)
    rejected = _marked(sample.rejected, kinds)
    if worse:  # the prompt has other pictures there, and so is not shared
        whole = (*_untrained(whole[: sample.shared]), *whole[sample.shared :])
        other = _filled(_opened((*prompt, *rejected), worse), worse, REJECTED)
        return replace(
            sample, messages=whole, rejected=(*_untrained(other[: sample.shared]), *other[sample.shared :]), shared=0
        )
    prompt = _opened(prompt, media) if not any(_places((*prompt, *better), kind) for kind in media) else prompt
    own = {
        kind: sources if _places(rejected, kind) else sources[: _places(prompt, kind)]
        for kind, sources in media.items()
    }
    other = _filled((*prompt, *rejected), own, "")
    return replace(sample, messages=whole, rejected=other[sample.shared :])


def _marked(messages: Sequence[Message], kinds: set[str]) -> tuple[Message, ...]:
    """Messages whose tags are parts without a source."""
    tag = re.compile("|".join(f"<{kind}>" for kind in sorted(kinds)))

    def parts(text: str) -> Iterator[Part]:
        at = 0
        for found in tag.finditer(text):
            if found.start() > at:
                yield Part("text", text[at : found.start()])
            yield Part(found[0][1:-1])  # type: ignore[arg-type]
            at = found.end()
        if at < len(text):
            yield Part("text", text[at:])

    def content(given: str | tuple[Part, ...]) -> str | tuple[Part, ...]:
        if isinstance(given, str):
            return tuple(parts(given)) if tag.search(given) else given
        return tuple(made for part in given for made in (parts(part.text) if part.type == "text" else (part,)))

    return tuple(replace(message, content=content(message.content)) for message in messages)


def _opened(messages: tuple[Message, ...], media: Media) -> tuple[Message, ...]:
    """With places before the first user message's text for media that have none."""
    new = [Part(kind) for kind, sources in media.items() if not _places(messages, kind) for _ in sources]  # type: ignore[arg-type]
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if not new or first is None:
        return messages
    content = messages[first].content
    said = (Part("text", content),) if isinstance(content, str) else content
    return (*messages[:first], replace(messages[first], content=(*new, *said)), *messages[first + 1 :])


def _places(messages: Sequence[Message], kind: str) -> int:
    return sum(1 for part in _parts(messages) if part.type == kind and part.source is None)


def _parts(messages: Sequence[Message]) -> Iterator[Part]:
    return (part for message in messages if isinstance(message.content, tuple) for part in message.content)


def _filled(messages: tuple[Message, ...], media: Media, start: str) -> tuple[Message, ...]:
    """The places taken by the media in order. Raises ValueError where there are not as many."""
    for kind, sources in media.items():
        places = _places(messages, kind)
        if places != len(sources):
            raise ValueError(
                f"{start}{COLUMNS[kind][0]}: {len(sources)} of them, and {places} places: as many <{kind}> tags are needed in "
                "the text as there are media, or none"
            )
    left = {kind: iter(sources) for kind, sources in media.items()}

    def fill(part: Part) -> Part:
        return replace(part, source=next(left[part.type])) if part.source is None and part.type in left else part

    return tuple(m if isinstance(m.content, str) else replace(m, content=tuple(map(fill, m.content))) for m in messages)


def _untrained(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(replace(message, loss=0.0) for message in messages)


def _checked(sample: Sample) -> Sample:
    for number, message in enumerate((*sample.messages, *sample.rejected), 1):
        for part in _parts([message]):
            if part.type != "text" and part.source is None:
                raise ValueError(
                    f"message {number} ({message.role}) has a part of type {part.type} that names no file, and there is no "
                    f"column {COLUMNS[part.type][0]} for it"
                )
    return sample
