"""The checkpoint's own chat template: token ids as its tokenizer gives them, and weights for what the assistant says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tk.contracts import Encoding, MediaProcessor
from tk.errors import DataError, UsageError
from tk.sample import Message, Sample
from tk_jinja.calls import probe_calls
from tk_jinja.format import Format, probe
from tk_jinja.options import JinjaOptions
from tk_jinja.render import FAILURES, Chat, Renderer, chat_of, map_strings, refused, strings
from tk_jinja.spans import Spans
from tk_text.calls import CallFormat, SaidReader, said
from tk_text.encoder import Rendered, TokenEncoder
from tk_text.marks import Marked, unused_marks
from tk_text.media import appended, expanded, split
from tk_text.messages import located, require_messages, weight_of

_MEND = (
    "Choose another format, e.g. --template chatml, or give a template with {% generation %} blocks around what the "
    "assistant says (--template.chat-template FILE)."
)


class JinjaTemplate:
    """Template (tk.contracts) by the tokenizer's chat template, or the one in `options.chat_template`."""

    def __init__(
        self, options: JinjaOptions | None = None, *, tokenizer: Any, media: MediaProcessor | None = None
    ) -> None:
        self._tokenizer, self._media = tokenizer, media
        self._renderer = Renderer(tokenizer, options or JinjaOptions(), takes_media=media is not None)
        self._formats: dict[str, Format] = {}
        spellings = sorted(TokenEncoder(tokenizer).added, key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, spellings)) or "(?!)")
        self._encoder = TokenEncoder(tokenizer, self._format(None).control if self._renderer.has_source else ())

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        """As in the contract. With `generation`, the assistant's next turn begins after all of the messages."""
        raw = [i for i, sample in enumerate(samples) if sample.text and not sample.messages]
        chats = [i for i, sample in enumerate(samples) if not (sample.text and not sample.messages)]
        results = dict(zip(raw, self._encoder.encode_text([samples[i] for i in raw]), strict=True))
        rendered = [self._rendered(samples[i], generation) for i in chats]
        results |= zip(chats, map(self._opened, self._encoder.encode(rendered)), strict=True)
        return expanded([results[i] for i in range(len(samples))], samples, self._media)

    def _opened(self, encoding: Encoding) -> Encoding:
        """With the tokenizer's own opening before it where the template writes none: processors of media add it."""
        opening = self._encoder.opening if self._media is not None else []
        if not opening or list(encoding.ids[: len(opening)]) == opening:
            return encoding
        return Encoding([*opening, *encoding.ids], [0.0] * len(opening) + list(encoding.weights), encoding.media)

    def extend(self, ids: Sequence[int], messages: Sequence[Message]) -> Encoding:
        """As in the contract: what the template writes between a finished answer and the next one is appended."""
        if not messages:
            return Encoding(list(ids), [0.0] * len(ids))
        written = self._continuation(messages)
        if ids and ids[-1] in self.stop_ids():
            written = self._without_end(written, self._tokenizer.convert_ids_to_tokens(int(ids[-1])))
        return appended(ids, self._encoder.encode([written])[0], messages, self._media)

    def stop_ids(self) -> tuple[int, ...]:
        """The template's end-of-turn token, the tokenizer's end of text, and those of generation_config.json."""
        ends = self._added.findall(self._format(None).final_end) if self._renderer.has_source else []
        found = [*map(self._encoder.id_of, ends[-1:]), self._tokenizer.eos_token_id]
        found += _generation_config_ends(self._tokenizer)
        return tuple(dict.fromkeys(i for i in found if i is not None))

    def read(self, ids: Sequence[int]) -> Message:
        """As in the contract: calls are read where the template writes them as JSON."""
        return said(self._tokenizer, ids, self._ends, self._calls)

    def reader(self) -> SaidReader:
        """As in the contract."""
        return SaidReader(self._tokenizer, self._ends, self._calls)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return self.stop_ids()

    @cached_property
    def _calls(self) -> CallFormat | None:
        return probe_calls(self._renderer.render, self._format(None).headers[-1]) if self._renderer.has_source else None

    def _format(self, tools: Any) -> Format:
        source = self._renderer.source(tools)
        if source not in self._formats:
            self._formats[source] = self._probe(tools)
        return self._formats[source]

    def _probe(self, tools: Any) -> Format:
        """The format, with contents as text, or as lists of parts where the template reads only those."""
        try:
            return probe(partial(self._renderer.render, tools=tools), self._added)
        except UsageError as error:
            if self._renderer.parts:
                raise
            self._renderer.parts = True
            try:
                return probe(partial(self._renderer.render, tools=tools), self._added)
            except UsageError:
                self._renderer.parts = False
                raise error from None

    def _rendered(self, sample: Sample, generation: bool) -> Rendered:
        messages = require_messages(sample)
        tools = [dict(tool) for tool in sample.tools] or None
        chat, full = self._render(sample, tools, generation)
        mark = ""
        plain = full
        if any(self._encoder.guard.search(text) for text in strings([chat, tools])):
            mark = next(unused_marks(full, *strings([chat, tools])))
            chat, tools = self._broken(chat, mark), self._broken(tools, mark)
            full = self._renderer.render(chat, tools, generation=generation)
        marked = Marked(full, [mark] if mark else ())
        if marked.plain != plain:
            spelled = sorted(
                {
                    m.group()
                    for text in strings(chat_of(messages, media=self._media))
                    for m in self._encoder.guard.finditer(text)
                }
            )
            raise DataError(
                located(
                    sample.origin,
                    f"content spells {', '.join(spelled)}, and the chat template treats such content in its own way. "
                    'Take it out, or write a tool\'s result as a message with the role "tool".',
                )
            )
        spans = [] if generation else self._spans(messages, chat, tools, full, sample.origin)
        return Rendered(
            plain,
            [(marked.unmarked(a), marked.unmarked(b), weight) for a, b, weight in spans],
            self._spelled(marked, mark),
            sample.origin,
        )

    def _render(self, sample: Sample, tools: Any, generation: bool) -> tuple[Chat, str]:
        chat = chat_of(sample.messages, sample.origin, media=self._media)
        try:
            return chat, self._renderer.render(chat, tools, generation=generation)
        except FAILURES as error:
            if not any(message.tool_calls for message in sample.messages):
                raise refused(sample, error) from error
            first = error
        # Some templates join a call's arguments as text; others go through the mapping.
        chat = chat_of(sample.messages, sample.origin, media=self._media, json_arguments=True)
        try:
            return chat, self._renderer.render(chat, tools, generation=generation)
        except FAILURES:
            raise refused(sample, first) from first

    def _broken(self, value: Any, mark: str) -> Any:
        """Strings with a mark inside each spelling of a control token, so that they are told from the template's own."""
        guard = self._encoder.guard
        return map_strings(value, lambda text: guard.sub(lambda m: m.group()[0] + mark + m.group()[1:], text))

    def _spelled(self, marked: Marked, mark: str) -> list[tuple[int, int]]:
        found = (self._encoder.guard.match(marked.plain, at - 1) for at in marked.places.get(mark, ()))
        return [match.span() for match in found if match]

    def _spans(
        self, messages: Sequence[Message], chat: Chat, tools: Any, full: str, origin: str
    ) -> list[tuple[int, int, float]]:
        """(start, end, weight) of what is trained, in offsets of `full`."""
        weights = [weight_of(message) for message in messages]
        speaks = [message.role == "assistant" for message in messages]
        regions = self._renderer.regions(chat, tools) if any(weights) else None
        finder = Spans(chat, full, self._format(tools), partial(self._renderer.render, tools=tools), self._added)
        out: list[tuple[int, int, float]] = []
        if regions is not None:
            own = [weight for weight, assistant in zip(weights, speaks, strict=True) if assistant]
            out += _regions_weighted(regions, own, origin)
        for index, (weight, assistant) in enumerate(zip(weights, speaks, strict=True)):
            if not weight or (assistant and regions is not None) or not (assistant or chat[index]["content"].strip()):
                continue
            span = finder.turn(index) if assistant else finder.content(index)
            if span is None:
                raise DataError(
                    located(
                        origin,
                        f"it cannot be told which tokens of the chat template's text are message {index + 1} "
                        f"({messages[index].role}). {_MEND}",
                    )
                )
            out.append((*span, weight))
        self._require_whole(messages, chat, full, origin)
        return sorted(out)

    def _require_whole(self, messages: Sequence[Message], chat: Chat, full: str, origin: str) -> None:
        """Raise where a template leaves out a part of the last answer, which then would silently not be trained.

        What it leaves out of earlier answers (their thinking) it leaves out in generation as well.
        """
        last = messages[-1]
        if last.role != "assistant" or not weight_of(last):
            return
        for name in ("content", "reasoning_content"):
            spoken = [
                words.strip()
                for type, words in split(chat[-1].get(name, ""), self._media is not None)
                if type == "text"
            ]
            if any(w not in full and "".join(w.split()) not in "".join(full.split()) for w in spoken):
                what = "reasoning" if name == "reasoning_content" else "content"
                raise DataError(located(origin, f"the chat template leaves out {what} of the last message. {_MEND}"))

    def _without_end(self, written: Rendered, said: str) -> Rendered:
        """What is still to be written where the assistant itself ended its turn, with the token `said`."""
        ends = self._format(None).ends
        match = ends.match(written.text) if ends is not None else None
        cut = match.end() if match else len(said) if written.text.startswith(said) else 0
        return Rendered(written.text[cut:], spelled=[(start - cut, end - cut) for start, end in written.spelled])

    def _continuation(self, messages: Sequence[Message]) -> Rendered:
        """What the template writes after an answer when `messages` follow, up to the next answer."""
        sample = Sample(messages=(Message("user", "Why"), Message("assistant", "So"), *messages))
        chat, full = self._render(sample, None, True)
        marks = unused_marks(full, *strings(chat))
        cut, mark = next(marks), next(marks)
        if any(self._encoder.guard.search(text) for text in strings(chat)):
            chat = self._broken(chat, mark)
        chat[1] = {**chat[1], "content": f"{chat[1]['content']}{cut}"}
        text = self._renderer.render(chat, generation=True)
        if Marked(text, [cut, mark]).plain != full or text.count(cut) != 1:
            raise UsageError(f"It cannot be told what this chat template writes between turns. {_MEND}")
        marked = Marked(text.partition(cut)[2], [mark])
        return Rendered(marked.plain, spelled=self._spelled(marked, mark))


def _regions_weighted(
    regions: Sequence[tuple[int, int]], weights: Sequence[float], origin: str
) -> list[tuple[int, int, float]]:
    """{% generation %} regions with the weights of the assistant's messages, one each, or one weight for all."""
    if len(set(weights)) > 1 and len(regions) != len(weights):
        raise DataError(
            located(
                origin,
                f"the chat template marks {len(regions)} regions as generated where the assistant has {len(weights)} "
                "messages, so that their different loss weights cannot be told apart. Give all of them one weight.",
            )
        )
    each = weights if len(regions) == len(weights) else weights[:1] * len(regions)
    return [(a, b, weight) for (a, b), weight in zip(regions, each, strict=True) if weight and b > a]


def _generation_config_ends(tokenizer: Any) -> list[int]:
    """`eos_token_id` of a generation_config.json that lies beside the tokenizer."""
    path = Path(str(getattr(tokenizer, "name_or_path", ""))) / "generation_config.json"
    if not path.is_file():
        return []
    ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return [] if ends is None else ends if isinstance(ends, list) else [ends]
