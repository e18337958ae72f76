"""Registers the loss `discopop`."""

from collections.abc import Iterable

from tk import LossSpec, hookimpl


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(
        name="discopop",
        target="acme_tk_discopop.loss:Discopop",
        config="acme_tk_discopop.options:DiscopopOptions",
        summary="Logistic and exponential loss on pairs, mixed by the margin (DiscoPOP).",
        supports=("index-select", "packing"),
    )
