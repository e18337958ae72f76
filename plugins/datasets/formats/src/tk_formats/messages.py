"""OpenAI style conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tk.sample import Sample
from tk_formats.media import with_media
from tk_formats.rows import extras, need
from tk_formats.turns import read_messages, read_tools, with_system


class Messages:
    """{"messages": [{"role", "content", …}, …], "tools": […], "system": "…"}.

    A message may have tool_calls, name, tool_call_id, reasoning_content, and loss (or train, weight): whether, or with
    which weight, it is trained. Content is text or a list of parts (text, image_url, image, video, audio …).

    generation: conversations are read to be answered: as OpenAI's API takes them, with empty turns and later system messages.
    """

    def __init__(self, *, generation: bool = False) -> None:
        self._generation = generation

    @with_media
    def __call__(self, row: Mapping[str, Any]) -> Sample:
        messages = read_messages(need(row, "messages"), generation=self._generation)
        messages = with_system(messages, row.get("system"))
        return Sample(
            messages=messages,
            tools=read_tools(row.get("tools")),
            label=row.get("label"),
            extras=extras(row, "messages", "system", "tools", "label"),
        )
