"""What this package adds to tk."""

from collections.abc import Iterable

from tk import StrategySpec, hookimpl


@hookimpl
def tk_strategies() -> Iterable[StrategySpec]:
    yield StrategySpec(
        name="deepspeed",
        target="tk_deepspeed.strategy:Deepspeed",
        config="tk_deepspeed.options:DeepspeedOptions",
        summary="Optimizer state, gradients and parameters are sharded as far as wished (DeepSpeed's ZeRO).",
        requires=("elementwise",),
        supports=("packing", "gradient-checkpointing", "sharding"),
        environment="tk_deepspeed.environment:environment",
        extra="--no-build-isolation tk-plugin-deepspeed[deepspeed]",  # it asks the torch that is here how to build itself
        needs=("module:deepspeed",),
    )
