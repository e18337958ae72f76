"""A local plugin for `tk train`: the reward of the GRPO benchmark."""

from __future__ import annotations

from letters import share

from tk import component


@component("rewards", "letters", summary="How many of an answer's characters are an e.")
async def letters(batch):  # type: ignore[no-untyped-def]
    return [share(message.text) for message in batch.completions]
