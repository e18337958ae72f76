"""A chat format written down as data. Free of torch and transformers, so that a format's module is cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ToolFormat:
    """How tools, calls and results are written, each as JSON.

    system: put behind the system message's text where a conversation has tools; "{tools}" stands for them, one JSON
        schema a line. separator: between the system message's own text and that.
    call: (before, after) each call {"name": …, "arguments": {…}}; `joint` stands between content, calls and results.
    result: (before, after) the content of each tool message; results that follow each other are one turn of role
        "tool".
    """

    system: str
    call: tuple[str, str]
    result: tuple[str, str] = ("", "")
    joint: str = "\n"
    separator: str = "\n\n"


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """A chat format: what stands around each message.

    roles: role -> (before, after) its content. What stands before the assistant's content is the generation prompt,
        unless `generation` is given; what stands after it is trained up to and with the `end` in it.
    end: text that ends the assistant's turn, at the start of the assistant's "after"; the stop token where it is one.
    prefix: before everything ("<s>").
    system: the system message where a conversation has none; "" for none.
    reasoning: (before, after) an answer's reasoning, which stands before its content.
    tools: None where the format has no tools.
    stop: further texts that end generation, where they are tokens of the vocabulary.
    """

    roles: Mapping[str, tuple[str, str]]
    end: str
    prefix: str = ""
    system: str = ""
    generation: str | None = None
    reasoning: tuple[str, str] | None = None
    tools: ToolFormat | None = None
    stop: tuple[str, ...] = field(default=())

    @property
    def prompt(self) -> str:
        """What stands before the assistant begins to speak."""
        return self.roles["assistant"][0] if self.generation is None else self.generation


def _chatml(role: str) -> tuple[str, str]:
    return f"<|im_start|>{role}\n", "<|im_end|>\n"


CHATML = ChatFormat(
    roles={
        "system": _chatml("system"),
        "developer": _chatml("system"),
        "user": _chatml("user"),
        "assistant": _chatml("assistant"),
        "tool": ("<|im_start|>user", "<|im_end|>\n"),
    },
    end="<|im_end|>",
    reasoning=("<think>\n", "\n</think>\n\n"),
    tools=ToolFormat(
        system=(
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        ),
        call=("<tool_call>\n", "\n</tool_call>"),
        result=("\n<tool_response>\n", "\n</tool_response>"),
    ),
)
"""ChatML with tools in the Hermes style, as Qwen writes them."""
