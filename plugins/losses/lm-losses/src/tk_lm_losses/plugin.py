"""Registers the losses on next-token prediction."""

from collections.abc import Iterable

from tk import LossSpec, hookimpl


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(
        name="causal-lm",
        aliases=("sft",),
        target="tk_lm_losses.losses:CausalLm",
        config="tk_lm_losses.options:CausalLmOptions",
        summary="Cross entropy of the next token, with label smoothing and z-loss.",
        supports=("index-select", "packing"),
    )
    yield LossSpec(
        name="dft",
        target="tk_lm_losses.losses:Dft",
        summary="Dynamic Fine-Tuning: cross entropy weighted by the token's own probability.",
        supports=("index-select", "packing"),
    )
