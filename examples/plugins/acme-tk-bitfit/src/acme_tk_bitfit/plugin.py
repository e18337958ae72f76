"""Registers the tuner `bitfit`."""

from collections.abc import Iterable

from tk import TunerSpec, hookimpl


@hookimpl
def tk_tuners() -> Iterable[TunerSpec]:
    yield TunerSpec(
        name="bitfit",
        target="acme_tk_bitfit.tuner:BitFit",
        config="acme_tk_bitfit.options:BitFitOptions",
        summary="Trains biases only.",
        supports=("packing", "merge", "whole-model", "sharding"),
        defaults={"optim.lr": 1e-3},
    )
