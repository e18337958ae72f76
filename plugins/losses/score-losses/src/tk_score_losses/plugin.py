"""Registers the losses on scores."""

from collections.abc import Iterable

from tk import LossSpec, hookimpl

SUPPORTS = ("packing", "shared-prefix")


@hookimpl
def tk_losses() -> Iterable[LossSpec]:
    yield LossSpec(
        name="bradley-terry",
        target="tk_score_losses.pairs:BradleyTerry",
        config="tk_score_losses.options:BradleyTerryOptions",
        summary="Reward models: the chosen answer's score above the rejected one's, with margins and centring.",
        supports=SUPPORTS,
    )
    yield LossSpec(
        name="cross-entropy",
        target="tk_score_losses.labels:CrossEntropy",
        config="tk_score_losses.options:CrossEntropyOptions",
        summary="Classification with one class a sequence.",
        supports=SUPPORTS,
    )
    yield LossSpec(
        name="binary-cross-entropy",
        aliases=("bce",),
        target="tk_score_losses.labels:BinaryCrossEntropy",
        summary="Classification with several labels that each hold or not.",
        supports=SUPPORTS,
    )
    yield LossSpec(
        name="mean-squared",
        aliases=("mse",),
        target="tk_score_losses.labels:MeanSquared",
        summary="Regression: the squared difference to the label.",
        supports=SUPPORTS,
    )
