"""The shapes of rows that are in common use."""

from __future__ import annotations

from collections.abc import Iterator

from tk.hookspecs import hookimpl
from tk.specs import FormatSpec


@hookimpl
def tk_formats() -> Iterator[FormatSpec]:
    yield FormatSpec(
        name="messages",
        target="tk_formats.messages:Messages",
        columns=(("messages",),),
        summary="OpenAI style: a list of messages with role and content; tools, tool calls, media, loss flags.",
    )
    yield FormatSpec(
        name="sharegpt",
        target="tk_formats.sharegpt:ShareGpt",
        columns=(("conversations",), ("conversation",)),
        summary="ShareGPT: turns with from and value (human, gpt, system, function_call, observation).",
    )
    yield FormatSpec(
        name="alpaca",
        target="tk_formats.columns:Alpaca",
        columns=(("instruction",), ("instruction", "output")),
        summary="Alpaca: instruction, input, output, system, history; without output a prompt to answer.",
    )
    yield FormatSpec(
        name="prompt-completion",
        target="tk_formats.columns:PromptCompletion",
        columns=(("prompt",), ("prompt", "completion")),
        summary="A prompt and its completion, texts or lists of messages; the prompt alone to be answered.",
    )
    yield FormatSpec(
        name="preference",
        target="tk_formats.preference:Preference",
        columns=(
            ("chosen", "rejected"),
            ("prompt", "chosen", "rejected"),
            ("messages", "chosen", "rejected"),
            ("conversations", "chosen", "rejected"),
            ("messages", "rejected_response"),
            ("messages", "rejected_messages"),
        ),
        summary="A prompt with a better and a worse answer: prompt, chosen, rejected, and the forms of other tools.",
    )
    yield FormatSpec(
        name="passages",
        target="tk_formats.passages:Passages",
        columns=tuple((query, positive) for query in ("anchor", "query") for positive in ("positive", "passage")),
        summary="A query with a passage that answers it, and negatives: anchor, positive, negative (or negatives).",
    )
    yield FormatSpec(
        name="text",
        target="tk_formats.columns:Text",
        columns=(("text",),),
        summary="Plain text, without a chat format.",
    )
