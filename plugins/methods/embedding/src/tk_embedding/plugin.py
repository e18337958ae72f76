"""Registers the method `embedding`."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="embedding",
        target="tk_embedding.method:Embedding",
        config="tk_embedding.options:EmbeddingOptions",
        summary="Vectors of texts: queries near the passages that answer them.",
        supports=("packing", "embedding-noise", "padding-left"),
        defaults={"losses": {"info-nce": 1.0}},
    )
