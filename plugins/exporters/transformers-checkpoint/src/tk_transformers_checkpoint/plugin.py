"""What this package brings."""

from __future__ import annotations

from collections.abc import Iterable

from tk import ExporterSpec, hookimpl


@hookimpl
def tk_exporters() -> Iterable[ExporterSpec]:
    yield ExporterSpec(
        name="transformers",
        target="tk_transformers_checkpoint.exporter:TransformersExporter",
        summary="A folder that plain transformers opens, checked by loading it again.",
    )
