"""Registers the losses on preference pairs."""

from collections.abc import Iterable

from tk import LossSpec, hookimpl

SUPPORTS = ("index-select", "packing", "shared-prefix")


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(
        name="sigmoid",
        aliases=("dpo",),
        target="tk_preference_losses.sigmoid:Sigmoid",
        config="tk_preference_losses.options:SigmoidOptions",
        summary="DPO's own: the log-sigmoid of a pair's margin, with label smoothing.",
        supports=SUPPORTS,
    )
    yield LossSpec(
        name="ipo",
        target="tk_preference_losses.ipo:Ipo",
        config="tk_preference_losses.options:IpoOptions",
        summary="IPO: the squared distance of the margin a token to 1 / (2β).",
        supports=SUPPORTS,
    )
    yield LossSpec(
        name="hinge",
        target="tk_preference_losses.hinge:Hinge",
        config="tk_preference_losses.options:HingeOptions",
        summary="A margin of one is asked for (SLiC).",
        supports=SUPPORTS,
    )
    yield LossSpec(
        name="bco-pair",
        aliases=("bco_pair",),
        target="tk_preference_losses.bco_pair:BcoPair",
        config="tk_preference_losses.options:BcoPairOptions",
        summary="BCO: chosen and rejected answers told apart by a binary classifier.",
        supports=SUPPORTS,
    )
