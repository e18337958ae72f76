"""Registers the callback `loss-spike`."""

from collections.abc import Iterable

from tk import CallbackSpec, hookimpl


@hookimpl
def tk_callbacks() -> Iterable[CallbackSpec]:
    yield CallbackSpec(
        name="loss-spike",
        target="acme_tk_loss_spike.callback:LossSpike",
        config="acme_tk_loss_spike.options:LossSpikeOptions",
        summary="Ends a run whose loss stays far above its recent median.",
    )
