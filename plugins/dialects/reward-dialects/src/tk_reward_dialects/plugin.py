"""Specs of the dialects."""

from collections.abc import Iterator

from tk import DialectSpec, hookimpl


@hookimpl
def tk_dialects() -> Iterator[DialectSpec]:
    yield DialectSpec(
        name="trl",
        target="tk_reward_dialects.functions:Trl",
        summary="Functions some_reward(prompts, completions, **kwargs) that are defined in the file.",
    )
    yield DialectSpec(
        name="ms-swift",
        target="tk_reward_dialects.swift:MsSwift",
        imports=("swift",),
        summary="Classes with __call__(self, completions, **columns), put into orms of swift.plugin or swift.rewards.",
    )
