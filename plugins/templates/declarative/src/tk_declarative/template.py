"""One template class for every declarative chat format; a format of one's own is a subclass with a `format`.

class MyTemplate(DeclarativeTemplate):
    format = MY_FORMAT

TemplateSpec(name="mine", target="my_package.template:MyTemplate", config="tk_declarative.options:ChatOptions")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from tk.contracts import Encoding, MediaProcessor
from tk.errors import DataError
from tk.sample import Message, Sample
from tk_declarative.format import CHATML, ChatFormat
from tk_declarative.options import ChatOptions
from tk_text.calls import CallFormat, SaidReader, said
from tk_text.encoder import Rendered, TokenEncoder
from tk_text.media import appended, expanded, marked, split
from tk_text.messages import call_of, located, require_messages, text_of, weight_of


class DeclarativeTemplate:
    """Template (tk.contracts) by a ChatFormat.

    Where the vocabulary lacks the format's tokens ("<|im_end|>" in GPT-2's), they are written as text, which is
    trained like any other; generation then stops at the tokenizer's end-of-text token only.
    """

    format: ClassVar[ChatFormat]

    def __init__(
        self, options: ChatOptions | None = None, *, tokenizer: Any, media: MediaProcessor | None = None
    ) -> None:
        self._tokenizer, self._media = tokenizer, media
        given = options.system if options else None
        self._system = self.format.system if given is None else given
        around = [text for pair in self.format.roles.values() for text in pair]
        written = "".join([self.format.prefix, *around, self.format.prompt])
        own = [token for token in TokenEncoder(tokenizer).added if token in written]
        self._encoder = TokenEncoder(tokenizer, own)

    def encode(self, samples: Sequence[Sample], *, generation: bool = False) -> list[Encoding]:
        """As in the contract. With `generation`, the assistant's next turn begins after all of the messages."""
        raw = [i for i, sample in enumerate(samples) if sample.text and not sample.messages]
        chats = [i for i, sample in enumerate(samples) if not (sample.text and not sample.messages)]
        results = dict(zip(raw, self._encoder.encode_text([samples[i] for i in raw]), strict=True))
        rendered = [self._conversation(samples[i], generation) for i in chats]
        results |= zip(chats, self._encoder.encode(rendered), strict=True)
        return expanded([results[i] for i in range(len(samples))], samples, self._media)

    def extend(self, ids: Sequence[int], messages: Sequence[Message]) -> Encoding:
        """As in the contract: the rest of the assistant's turn, the messages and a generation prompt are appended."""
        if not messages:
            return Encoding(list(ids), [0.0] * len(ids))
        trailer = self.format.roles["assistant"][1]
        if ids and ids[-1] in self.stop_ids():
            trailer = trailer.removeprefix(self.format.end)
        writer = _Writer(self._encoder)
        writer.add(trailer)
        self._turns(writer, messages, "")
        writer.add(self.format.prompt)
        more = self._encoder.encode([writer.rendered("")])[0]
        return appended(ids, more, messages, self._media)

    def stop_ids(self) -> tuple[int, ...]:
        """The format's end of turn and stop texts where they are tokens, and the tokenizer's end of text."""
        found = [self._encoder.id_of(text) for text in (self.format.end, *self.format.stop)]
        return tuple(dict.fromkeys(i for i in (*found, self._tokenizer.eos_token_id) if i is not None))

    def read(self, ids: Sequence[int]) -> Message:
        """As in the contract."""
        return said(self._tokenizer, ids, self.stop_ids(), self._calls)

    def reader(self) -> SaidReader:
        """As in the contract."""
        return SaidReader(self._tokenizer, self.stop_ids(), self._calls)

    @property
    def _calls(self) -> CallFormat | None:
        return CallFormat(self.format.tools.call[0].strip()) if self.format.tools else None

    def _conversation(self, sample: Sample, generation: bool) -> Rendered:
        messages = list(require_messages(sample))
        writer = _Writer(self._encoder)
        writer.add(self.format.prefix)
        has_system = messages[0].role in ("system", "developer")
        system = messages.pop(0) if has_system else Message("system", self._system)
        if has_system or self._system or sample.tools:
            self._system_turn(writer, system, sample)
        self._turns(writer, messages, sample.origin)
        if generation:
            writer.add(self.format.prompt)
        return writer.rendered(sample.origin, spans=not generation)

    def _system_turn(self, writer: _Writer, message: Message, sample: Sample) -> None:
        before, after = self._around(message.role, sample.origin)
        weight = weight_of(message)
        writer.add(before)
        writer.content(text_of(message, sample.origin), weight)
        if sample.tools:
            tools = self.format.tools
            if tools is None:
                raise DataError(located(sample.origin, "the row has tools, and this template has no form for them."))
            head, _, tail = tools.system.partition("{tools}")
            writer.add((tools.separator if text_of(message) else "") + head)
            writer.content("\n".join(json.dumps(dict(tool), ensure_ascii=False) for tool in sample.tools), weight)
            writer.add(tail)
        writer.add(after)

    def _turns(self, writer: _Writer, messages: Sequence[Message], origin: str) -> None:
        for index, message in enumerate(messages):
            before, after = self._around(message.role, origin)
            follows = index > 0 and messages[index - 1].role == "tool" == message.role
            followed = index + 1 < len(messages) and messages[index + 1].role == "tool" == message.role
            writer.add("" if follows else before)
            if message.role == "assistant":
                self._answer(writer, message, after, origin)
            else:
                start, stop = self.format.tools.result if self.format.tools and message.role == "tool" else ("", "")
                writer.add(start)
                self._content(writer, message, weight_of(message), origin)
                writer.add(stop + ("" if followed else after))

    def _answer(self, writer: _Writer, message: Message, after: str, origin: str) -> None:
        """Everything from the generation prompt to the end of the turn is the assistant's, its calls too."""
        weight, content = weight_of(message), marked(message, self._media, origin)
        if message.reasoning:
            if self.format.reasoning is None:
                raise DataError(located(origin, "a message has reasoning, and this template has no form for it."))
            writer.add(self.format.reasoning[0], weight)
            writer.content(message.reasoning.strip("\n"), weight)
            writer.add(self.format.reasoning[1], weight)
        self._content(writer, message, weight, origin)
        for number, call in enumerate(message.tool_calls):
            if self.format.tools is None:
                raise DataError(located(origin, "a message calls a tool, and this template has no form for that."))
            start, stop = self.format.tools.call
            writer.add((self.format.tools.joint if content or number else "") + start, weight)
            writer.content(json.dumps(call_of(call), ensure_ascii=False), weight)
            writer.add(stop, weight)
        writer.add(self.format.end, weight)
        writer.add(after.removeprefix(self.format.end))

    def _content(self, writer: _Writer, message: Message, weight: float, origin: str) -> None:
        for type, text in split(marked(message, self._media, origin), self._media is not None):
            if type == "text":
                writer.content(text, weight)
            elif self._media is not None:
                writer.add(self._media.placeholder(type))

    def _around(self, role: str, origin: str) -> tuple[str, str]:
        if role not in self.format.roles:
            known = ", ".join(self.format.roles)
            raise DataError(located(origin, f"this template has no role {role!r} (it has {known})."))
        return self.format.roles[role]


class _Writer:
    """Puts a conversation's text together and keeps account of what is trained and what content spells."""

    def __init__(self, encoder: TokenEncoder) -> None:
        self._guard = encoder.guard
        self._pieces: list[str] = []
        self._at = 0
        self._spans: list[tuple[int, int, float]] = []
        self._spelled: list[tuple[int, int]] = []

    def add(self, text: str, weight: float = 0.0) -> None:
        """Text of the format."""
        start, self._at = self._at, self._at + len(text)
        self._pieces.append(text)
        if not weight or not text:
            return
        if self._spans and self._spans[-1][1:] == (start, weight):
            start = self._spans.pop()[0]
        self._spans.append((start, self._at, weight))

    def content(self, text: str, weight: float) -> None:
        """Text of the row: what it spells stays text."""
        self._spelled += [(self._at + m.start(), self._at + m.end()) for m in self._guard.finditer(text)]
        self.add(text, weight)

    def rendered(self, origin: str, *, spans: bool = True) -> Rendered:
        return Rendered("".join(self._pieces), self._spans if spans else [], self._spelled, origin)


class ChatMLTemplate(DeclarativeTemplate):
    """ChatML."""

    format = CHATML
