"""Registers the method `dpo`."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="dpo",
        target="tk_dpo.method:Dpo",
        config="tk_dpo.options:DpoOptions",
        summary="Preference pairs: DPO, IPO, hinge, BCO and mixtures of them.",
        supports=("packing", "embedding-noise", "padding-left", "index-select", "shared-prefix"),
        defaults={"losses": {"sigmoid": 1.0}},
    )
