"""Registers the method `raft`."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="raft",
        target="acme_tk_raft.method:Raft",
        config="acme_tk_raft.options:RaftOptions",
        summary="Supervised fine-tuning on the best of several answers that the model gives.",
        supports=("padding-left", "index-select", "shared-prefix"),
        defaults={"losses": {"causal-lm": 1.0}, "sampling.n": 4, "sampling.temperature": 1.0},
    )
