"""Registers the tuner `lora`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import TunerSpec


@hookimpl
def tk_tuners() -> Iterable[TunerSpec]:
    yield TunerSpec(
        name="lora",
        target="tk_lora.tuner:LoraTuner",
        config="tk_lora.options:LoraOptions",
        summary="Low-rank adapters: LoRA, rsLoRA, DoRA, LoRA+, PiSSA, OLoRA.",
        supports=("packing", "shared-prefix", "adapter-off", "adapters", "merge", "sharding"),
        defaults={"optim.lr": 2e-4},
    )
