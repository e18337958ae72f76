"""Registers the trainer `pipeline` and the strategy `pipeline`, neither of which goes with another."""

from collections.abc import Iterable

from tk import StrategySpec, TrainerSpec, hookimpl

STAGES = ("acme-tk-pipeline:stages",)


@hookimpl
def tk_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        name="pipeline",
        target="acme_tk_pipeline.trainer:PipelineTrainer",
        config="tk_torch.options:TorchOptions",
        summary="A pipeline of two processes, each of which holds half of the layers.",
        requires=STAGES,
        supports=STAGES,
        defaults={"strategy.name": "pipeline"},
    )


@hookimpl
def tk_strategies() -> Iterable[StrategySpec]:
    yield StrategySpec(
        name="pipeline",
        target="acme_tk_pipeline.strategy:PipelineStrategy",
        config="acme_tk_pipeline.options:PipelineOptions",
        summary="The model cut in two, for the trainer pipeline.",
        requires=STAGES,
        supports=STAGES,
    )
