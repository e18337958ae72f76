"""What this package adds to tk."""

from collections.abc import Iterable

from tk import TrainerSpec, hookimpl


@hookimpl
def tk_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        name="torch",
        target="tk_torch.trainer:TorchTrainer",
        config="tk_torch.options:TorchOptions",
        summary="One straight training loop in PyTorch.",
        supports=(
            "packing",
            "gradient-checkpointing",
            "padding-left",
            "embedding-noise",
            "activation-offload",
            "compile",
        ),
    )
