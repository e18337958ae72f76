"""The template `chatml`, the declarative template that ships with this package."""

from __future__ import annotations

from collections.abc import Iterator

from tk import TemplateSpec, hookimpl


@hookimpl
def tk_templates() -> Iterator[TemplateSpec]:
    yield TemplateSpec(
        name="chatml",
        target="tk_declarative.template:ChatMLTemplate",
        config="tk_declarative.options:ChatOptions",
        summary="ChatML: <|im_start|>role … <|im_end|>.",
    )
