"""Where in a rendered conversation the assistant speaks: found from the template's own behaviour, or not at all.

A turn begins where the prompt for it ends (the rendering of the messages before it, with generation prompt) and ends
with its end-of-turn token. Where a template writes a history differently from how it wrote the prompts (earlier
thinking removed), turns are found by marks around their contents in a second rendering, which counts only if it
equals the first one but for the marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from tk_jinja.format import Format, Render
from tk_jinja.render import FAILURES, Chat
from tk_text.marks import Marked, unused_marks

Span = tuple[int, int]


class Spans:
    """Finds spans in `full`, the rendering of `chat` by `render`. `added` matches the tokenizer's added tokens."""

    def __init__(self, chat: Chat, full: str, layout: Format, render: Render, added: Any) -> None:
        self._chat, self._full, self._render, self._added = chat, full, render, added
        self._layout, self._ends = layout, layout.ends

    def turn(self, index: int) -> Span | None:
        """What the assistant says in message `index`, with its end-of-turn token; None where it cannot be told."""
        start = self._start(index)
        if start is None:
            return None
        for end, words_end in self._candidates(index, start):
            if start <= words_end <= end and self._says(index, start, words_end):
                return start, end
        return None

    def content(self, index: int) -> Span | None:
        """The content of a message of any role, white space around it where it is kept; None where it cannot be told."""
        places = self._places(index)
        if places is None or places[0] is None:
            return None
        content, core = self._chat[index]["content"], self._chat[index]["content"].strip()
        start = places[0] - content.index(core)
        kept = start >= 0 and self._full.startswith(content, start)
        return (start, start + len(content)) if kept else (places[0], places[1])

    def _start(self, index: int) -> int | None:
        prompt = self._try(self._chat[:index], generation=True) if index else None
        if prompt is not None:
            if self._full.startswith(prompt):
                return len(prompt)
            for opening in self._layout.openings:
                bare = prompt.removesuffix(opening)
                if bare != prompt and self._full.startswith(bare):
                    return len(bare)
        return self._marked_start(index)

    def _marked_start(self, index: int) -> int | None:
        """Behind the header that stands nearest before the message's content (or the next message's)."""
        own = self._places(index)
        ends = [p[1] for p in map(self._places, range(index)) if p]
        after = [p[0] for p in map(self._places, range(index + 1, len(self._chat))) if p and p[0] is not None]
        if self._marked is None or (own is None and index and not ends):
            return None
        low = max(ends, default=0)
        high = min(after, default=len(self._full)) if own is None else own[1] if own[0] is None else own[0]
        for header in filter(None, self._layout.headers):
            at = self._full.rfind(header, low, high)
            if at >= 0:
                sure = own is not None or self._full.count(header, low, high) == 1
                return at + len(header) if sure else None
        if all(self._layout.headers):
            return None
        bare = own is not None and not {"reasoning_content", "tool_calls"} & self._chat[index].keys()
        return own[0] if own is not None and bare else None

    def _candidates(self, index: int, start: int) -> Iterator[tuple[int, int]]:
        """Possible ends of a turn, the likeliest first: (after the end-of-turn token, before it)."""
        last = index == len(self._chat) - 1
        full, ends = self._full, self._ends
        if ends is not None and (self._layout.final_end if last else self._layout.history_end):
            match = ends.search(full, start)
            if match:
                yield match.end(), match.start()
        turn = full if last else self._try(self._chat[: index + 1])
        if turn is not None and turn[:start] == full[:start]:
            for end, words_end in self._turn_ends(turn, start):
                if full.startswith(turn[:end]):
                    yield end, words_end
        places = self._places(index)
        if places is not None:
            match = ends.search(full, places[1]) if ends is not None else None
            if match:
                yield match.end(), match.start()
            elif ends is None:
                yield places[1], places[1]

    def _turn_ends(self, turn: str, start: int) -> Iterator[tuple[int, int]]:
        """Ends of a turn that is the last one in `turn`: its last end-of-turn token, its last token, its last letter."""
        if self._ends is not None:
            for match in list(self._ends.finditer(turn, start))[-1:]:
                yield match.end(), match.start()
            for match in list(self._added.finditer(turn, start))[-1:]:
                if not turn[match.end() :].strip():
                    yield match.end(), match.start()
        else:
            yield len(turn), len(turn)

    def _says(self, index: int, start: int, end: int) -> bool:
        """Whether full[start:end] holds all of the message: the content at its end, or followed by its tool calls."""
        message, words = self._chat[index], self._full[start:end]
        names = [call["function"]["name"] for call in message.get("tool_calls", ())]
        core = message["content"].strip()
        if not all(name in words for name in names) or (names and self._overruns(index, end)):
            return False
        if not core or (core in words if names else words.rstrip().endswith(core)):
            return True
        places = self._places(index)
        if places is None or not start <= places[1] <= end:
            return False
        return bool(names) or not self._full[places[1] : end].strip()

    def _overruns(self, index: int, end: int) -> bool:
        """Whether text of a later message stands before `end`, or where it stands is not known."""
        if index == len(self._chat) - 1:
            return False
        later = [p for p in map(self._places, range(index + 1, len(self._chat))) if p is not None]
        return self._marked is None or any((p[1] if p[0] is None else p[0]) < end for p in later)

    def _places(self, index: int) -> tuple[int | None, int] | None:
        """(start, end) of a message's stripped content; start None where the template cuts its beginning off."""
        if self._marked is None:
            return None
        opened, closed = (self._marked.places.get(mark, []) for mark in self._marks[index])
        if len(closed) != 1 or len(opened) > 1:
            return None
        return (opened[0] if opened else None), closed[0]

    @cached_property
    def _marks(self) -> Sequence[tuple[str, str]]:
        marks = unused_marks(self._full)
        return [(next(marks), next(marks)) for _ in self._chat]

    @cached_property
    def _marked(self) -> Marked | None:
        """The rendering with marks around contents; None where marks change more than themselves.

        Empty contents are marked too where the template does not care, so that they are told apart.
        """
        for empty in (True, False):
            chat = [
                {**message, "content": _wrapped(message["content"], *marks, empty=empty)}
                for message, marks in zip(self._chat, self._marks, strict=True)
            ]
            text = self._try(chat)
            if text is not None:
                marked = Marked(text, [mark for pair in self._marks for mark in pair])
                if marked.plain == self._full:
                    return marked
        return None

    def _try(self, chat: Chat, **how: bool) -> str | None:
        """A part of a conversation may be one that the template refuses; then it tells nothing."""
        try:
            return self._render(chat, **how)
        except FAILURES:
            return None


def _wrapped(content: str, opened: str, closed: str, *, empty: bool) -> str:
    core = content.strip()
    if not core:
        return content + (opened + closed if empty else "")
    at = content.index(core)
    return f"{content[:at]}{opened}{core}{closed}{content[at + len(core) :]}"
