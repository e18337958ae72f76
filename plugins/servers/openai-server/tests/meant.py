"""Hooks for schemathesis: half of what it makes up is turned into what the server may answer, so that it is not only refused."""

from __future__ import annotations

from typing import Any

import schemathesis

MEANT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "prompt": "Once", "input": "Once"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or len(repr(body)) % 2:
        return body
    return {**body, **{name: value for name, value in MEANT.items() if name in body}}
