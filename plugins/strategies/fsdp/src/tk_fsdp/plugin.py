"""What this package adds to tk."""

from collections.abc import Iterable

from tk import StrategySpec, hookimpl


@hookimpl
def tk_strategies() -> Iterable[StrategySpec]:
    yield StrategySpec(
        name="fsdp",
        target="tk_fsdp.strategy:Fsdp",
        config="tk_fsdp.options:FsdpOptions",
        summary="Parameters, gradients and optimizer state are sharded over the processes (fully_shard).",
        supports=("packing", "gradient-checkpointing", "sharding"),
    )
