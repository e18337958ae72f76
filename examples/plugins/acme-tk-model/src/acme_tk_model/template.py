"""The template `acme-chat`, written down as data."""

from __future__ import annotations

from tk_declarative.format import ChatFormat
from tk_declarative.template import DeclarativeTemplate

END = "<|endoftext|>"

ACME_CHAT = ChatFormat(
    roles={
        "system": ("<|system|>\n", f"{END}\n"),
        "user": ("<|user|>\n", f"{END}\n"),
        "assistant": ("<|assistant|>\n", f"{END}\n"),
    },
    end=END,
)


class AcmeTemplate(DeclarativeTemplate):
    """Acme's chat format. It has no form for tools."""

    format = ACME_CHAT
