"""Registers the reward `length`."""

from collections.abc import Iterable

from tk import RewardSpec, hookimpl


@hookimpl
def tk_rewards() -> Iterable[RewardSpec]:
    yield RewardSpec(
        name="length",
        target="acme_tk_length.reward:Length",
        config="acme_tk_length.options:LengthOptions",
        summary="1 within a budget of tokens, words or characters, falling to 0 beyond it.",
    )
