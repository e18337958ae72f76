"""What this package adds to tk."""

from collections.abc import Iterable

from tk import OptimizerSpec, hookimpl


@hookimpl
def tk_optimizers() -> Iterable[OptimizerSpec]:
    yield OptimizerSpec(
        name="adamw",
        target="tk_torch_optimizers.factories:AdamW",
        config="tk_torch_optimizers.options:AdamWOptions",
        summary="AdamW: adaptive moments, decoupled weight decay (arXiv:1711.05101).",
        supports=("elementwise",),
    )
    yield OptimizerSpec(
        name="sgd",
        target="tk_torch_optimizers.factories:Sgd",
        config="tk_torch_optimizers.options:SgdOptions",
        summary="Stochastic gradient descent with momentum.",
        supports=("elementwise",),
    )
    yield OptimizerSpec(
        name="adafactor",
        target="tk_torch_optimizers.factories:Adafactor",
        config="tk_torch_optimizers.options:AdafactorOptions",
        summary="Adafactor: factored second moments, little memory (arXiv:1804.04235).",
    )
