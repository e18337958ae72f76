"""Options of the `jinja` template."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from tk.config.options import doc


@dataclass(frozen=True)
class JinjaOptions:
    """How the checkpoint's chat template is used."""

    chat_template: Annotated[
        str | None, doc("Another template than the checkpoint's: a file, or the Jinja text itself.")
    ] = None
    enable_thinking: Annotated[
        bool | None, doc("Given to templates that switch thinking on and off by it; their own default unless given.")
    ] = None
    variables: Annotated[dict[str, Any], doc("Further variables of the template: {name: value}.")] = field(
        default_factory=dict
    )
