"""Registers the method `reward`."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="reward",
        target="tk_reward.method:Reward",
        summary="A reward model: one score an answer, trained on preference pairs.",
        supports=("packing", "embedding-noise", "padding-left", "shared-prefix"),
        defaults={"losses": {"bradley-terry": 1.0}},
    )
