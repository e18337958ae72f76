"""What every template reads of a message in the same way: its text, and the weight of its tokens in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tk.errors import DataError
from tk.sample import Message, Sample


def located(origin: str, text: str) -> str:
    """An error's text with the row it is about in front."""
    return f"{origin}: {text}" if origin else text


def text_of(message: Message, origin: str = "") -> str:
    """The text of a message's content, parts joined. Raises DataError where it holds an image, video or audio."""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.type != "text":
            raise DataError(
                located(
                    origin,
                    f"a {message.role} message holds {part.type}, and this template writes text only. "
                    f"Choose a template and a model that take {part.type}, or take the {part.type} parts out.",
                )
            )
    return message.text


def weight_of(message: Message) -> float:
    """The weight of a message's tokens: its own `loss` where it has one, else 1 for the assistant and 0 for others."""
    if message.loss is not None:
        return float(message.loss)
    return 1.0 if message.role == "assistant" else 0.0


def call_of(call: Any) -> Mapping[str, Any]:
    """A tool call as the model writes it: {"name": …, "arguments": {…}}."""
    return {"name": call.name, "arguments": call.arguments}


def require_messages(sample: Sample) -> Sequence[Message]:
    """The conversation of a sample. Raises DataError where there is none."""
    if not sample.messages:
        raise DataError(located(sample.origin, "the row has neither messages nor text."))
    return sample.messages
