"""Registers the tuner `full`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import TunerSpec


@hookimpl
def tk_tuners() -> Iterable[TunerSpec]:
    yield TunerSpec(
        name="full",
        target="tk_full.tuner:FullTuner",
        config="tk_full.options:FullOptions",
        summary="Trains the model's own weights, all or chosen by name.",
        supports=("packing", "shared-prefix", "merge", "whole-model", "sharding"),
        defaults={"optim.lr": 2e-5},
    )
