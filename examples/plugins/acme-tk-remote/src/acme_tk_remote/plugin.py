"""Registers the reward `remote`."""

from collections.abc import Iterable

from tk import RewardSpec, hookimpl


@hookimpl
def tk_rewards() -> Iterable[RewardSpec]:
    yield RewardSpec(
        name="remote",
        target="acme_tk_remote.reward:Remote",
        config="acme_tk_remote.options:RemoteOptions",
        summary="What a server of yours answers to each completion.",
    )
