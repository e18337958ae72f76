"""Registers the method `balanced-sft`."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="balanced-sft",
        target="acme_tk_balanced_sft.method:BalancedSft",
        config="acme_tk_balanced_sft.options:BalancedSftOptions",
        summary="Supervised fine-tuning: part mean over tokens, part mean over answers.",
        supports=("packing", "padding-left", "index-select"),
        defaults={"losses": {"causal-lm": 1.0}},
    )
