"""Specs of the format rewards."""

from collections.abc import Iterator

from tk import RewardSpec, hookimpl


@hookimpl
def tk_rewards() -> Iterator[RewardSpec]:
    yield RewardSpec(
        name="format",
        target="tk_format.reward:Format",
        config="tk_format.options:FormatOptions",
        summary="1 where the completion matches a regular expression; <think>…</think> and an answer by default.",
    )
