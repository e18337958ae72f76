"""What this package adds to tk."""

from collections.abc import Iterable

from tk import StrategySpec, hookimpl


@hookimpl
def tk_strategies() -> Iterable[StrategySpec]:
    yield StrategySpec(
        name="ddp",
        target="tk_ddp.strategy:Ddp",
        config="tk_ddp.options:DdpOptions",
        summary="Every process holds the whole model (DistributedDataParallel).",
        supports=("packing", "gradient-checkpointing", "weight-update", "compile"),
    )
