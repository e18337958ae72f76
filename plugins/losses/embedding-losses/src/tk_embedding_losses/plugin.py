"""Registers the losses on vectors."""

from collections.abc import Iterable

from tk import LossSpec, hookimpl


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(
        name="info-nce",
        aliases=("infonce",),
        target="tk_embedding_losses.info_nce:InfoNce",
        config="tk_embedding_losses.options:InfoNceOptions",
        summary="Each query finds its own passage among all of the optimizer step.",
        supports=("packing",),
    )
