"""Registers the loss `poly-1`."""

from collections.abc import Iterable

from tk import LossSpec, hookimpl


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(
        name="poly-1",
        target="acme_tk_poly.loss:Poly1",
        config="acme_tk_poly.options:Poly1Options",
        summary="PolyLoss: cross entropy plus epsilon times (1 - probability of the target).",
        supports=("index-select", "packing"),
    )
