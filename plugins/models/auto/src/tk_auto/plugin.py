"""Registers the fallback model family."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import ModelSpec


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="auto",
        target="tk_auto.family:AutoFamily",
        summary="Any checkpoint folder or hub id whose architecture transformers knows.",
        fallback=True,
        supports=("packing", "index-select", "padding-left", "gradient-checkpointing", "sharding"),
    )
