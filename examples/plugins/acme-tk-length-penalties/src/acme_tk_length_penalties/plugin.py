"""Registers the kind `length-penalties`, its components, and what uses the chosen one: the reward `length-penalty` and the command `lengths`."""

from collections.abc import Iterable

from acme_tk_length_penalties.contract import LengthPenaltySpec
from tk import CommandSpec, KindSpec, RewardSpec, hookimpl


@hookimpl
def tk_kinds() -> Iterable[KindSpec]:
    yield KindSpec(
        name="length-penalties",
        singular="length penalty",
        summary="Penalties on the length of answers.",
        spec=LengthPenaltySpec,
        contract="acme_tk_length_penalties.contract:LengthPenalty",
        section="penalty",
        default="overlong",
    )


@hookimpl
def tk_length_penalties() -> Iterable[LengthPenaltySpec]:
    yield LengthPenaltySpec(
        name="overlong",
        target="acme_tk_length_penalties.penalties:Overlong",
        config="acme_tk_length_penalties.options:OverlongOptions",
        summary="0 up to a limit, then down to -1 over a margin (DAPO).",
    )
    yield LengthPenaltySpec(
        name="group-range",
        target="acme_tk_length_penalties.penalties:GroupRange",
        summary="0.5 for the shortest answer to a prompt down to -0.5 for the longest (Kimi k1.5).",
        needs_group=True,
    )


@hookimpl
def tk_rewards() -> Iterable[RewardSpec]:
    yield RewardSpec(
        name="length-penalty",
        target="acme_tk_length_penalties.reward:PenaltyReward",
        summary="The penalty that the section `penalty` chooses, over the answers to each prompt.",
        uses={"penalty": "penalty"},
    )


@hookimpl
def tk_commands() -> Iterable[CommandSpec]:
    yield CommandSpec(
        name="lengths",
        target="acme_tk_length_penalties.command:lengths",
        summary="Apply a length penalty to the answers that tk infer wrote.",
    )
