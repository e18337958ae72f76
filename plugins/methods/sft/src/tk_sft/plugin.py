"""Registers supervised fine-tuning and continued pre-training."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl

SUPPORTS = ("packing", "embedding-noise", "padding-left", "index-select")


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="sft",
        target="tk_sft.method:Sft",
        config="tk_sft.options:SftOptions",
        summary="Supervised fine-tuning: trains what the assistant says.",
        supports=SUPPORTS,
        defaults={"losses": {"causal-lm": 1.0}},
    )
    yield MethodSpec(
        name="pt",
        target="tk_sft.method:Pretraining",
        summary="Continued pre-training: trains every token of text; long texts are split into blocks.",
        supports=SUPPORTS,
        defaults={"losses": {"causal-lm": 1.0}, "data.truncation": "split"},
    )
