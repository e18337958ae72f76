"""Specs of the mathematics rewards."""

from collections.abc import Iterator

from tk import RewardSpec, hookimpl


@hookimpl
def tk_rewards() -> Iterator[RewardSpec]:
    yield RewardSpec(
        name="accuracy",
        target="tk_math.accuracy:Accuracy",
        config="tk_math.options:AccuracyOptions",
        summary="1 where the answer equals the row's solution, checked symbolically.",
    )
