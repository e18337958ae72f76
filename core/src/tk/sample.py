"""What a row of data means, before any template: messages and what belongs to them. Free of torch and of any format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Part:
    """A piece of a message's content. `text` for text; `source` (path, URL, data URL or bytes) for media."""

    type: Literal["text", "image", "video", "audio"]
    text: str = ""
    source: str | bytes | None = None


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by the assistant; `arguments` is the parsed JSON object."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Message:
    """A turn. `loss` overrides whether (or with which weight) its tokens are trained; None leaves it to the method."""

    role: str
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    loss: float | None = None
    name: str = ""
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """The text of the content, media left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if part.type == "text")


@dataclass(frozen=True)
class Sample:
    """A row, understood.

    messages: the conversation; for a prompt alone it ends with the user.
    text: raw text, instead of messages. ended: the end-of-text token comes after it.
    rejected: the worse continuation of a preference pair: it stands in the place of `messages[shared:]`, the better one.
    shared: messages of the prompt that both follow.
    passages: texts held against `text`, a query: the first answers it, the others do not.
    label: class index, class indices, score or desirability, as the method reads it.
    extras: the row's other columns. plain: the row gave its prompt as text, not as messages.
    origin: "file:line" of the row, for errors.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Message, ...] = ()
    shared: int = 0
    passages: tuple[str, ...] = ()
    label: Any = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    plain: bool = field(default=False, compare=False)
    ended: bool = False

    @property
    def asked(self) -> tuple[Message, ...]:
        """The conversation up to where the assistant is to speak: answers at its end are left out."""
        turns = len(self.messages)
        while turns and self.messages[turns - 1].role == "assistant":
            turns -= 1
        return self.messages[:turns]

    @property
    def columns(self) -> Mapping[str, Any]:
        """What rewards may read of the row: `extras`, and its label where it has one."""
        return self.extras if self.label is None else {"label": self.label, **self.extras}


def sequence_names(sample: Sample, count: int) -> Sequence[str]:
    """What the sequences are called that a method makes of a sample, in order; "" for its only one."""
    if sample.rejected and count == 2:
        return ("chosen", "rejected")
    if sample.passages and count == 1 + len(sample.passages):
        return ("query", "positive", *("negative" for _ in sample.passages[1:]))
    return [""] if count == 1 else [f"part {i + 1}" for i in range(count)]
