"""The template `jinja`: what the checkpoint itself says a conversation looks like."""

from __future__ import annotations

from collections.abc import Iterator

from tk import TemplateSpec, hookimpl


@hookimpl
def tk_templates() -> Iterator[TemplateSpec]:
    yield TemplateSpec(
        name="jinja",
        target="tk_jinja.template:JinjaTemplate",
        config="tk_jinja.options:JinjaOptions",
        summary="The checkpoint's own chat template.",
    )
