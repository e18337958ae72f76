"""How a chat template writes the call of a tool, found by rendering one."""

from __future__ import annotations

import json
from collections.abc import Callable

from tk_jinja.render import FAILURES
from tk_text.calls import CallFormat, object_around

_NAME, _ARGUMENTS = "look_it_up", {"the_word": "that_is_meant"}
_CALL = {"type": "function", "id": "call00001", "function": {"name": _NAME, "arguments": _ARGUMENTS}}


def probe_calls(render: Callable[..., str], header: str) -> CallFormat | None:
    """The form of calls; None where the template writes none, or not as JSON. `header`: what stands before an answer."""
    asking = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    try:
        text = render([{"role": "user", "content": "Why"}, asking])
    except FAILURES:
        return None
    for start, found in object_around(text, _NAME):
        names = [key for key, value in found.items() if value == _NAME]
        arguments = [key for key, value in found.items() if value in (_ARGUMENTS, json.dumps(_ARGUMENTS))]
        if names and arguments:
            opening = text[:start].rpartition(header)[2] if header else text[:start]
            return CallFormat(opening.strip(), names[0], arguments[0])
    return None
