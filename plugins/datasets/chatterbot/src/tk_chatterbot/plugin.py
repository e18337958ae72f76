"""The data set `chatterbot`."""

from __future__ import annotations

from collections.abc import Iterator

from tk.hookspecs import hookimpl
from tk.specs import DatasetSpec


@hookimpl
def tk_datasets() -> Iterator[DatasetSpec]:
    yield DatasetSpec(
        name="chatterbot",
        target="tk_chatterbot.corpus:Chatterbot",
        config="tk_chatterbot.options:ChatterbotOptions",
        summary="Questions and answers on everyday topics (chatterbot-corpus, BSD-3-Clause), in 28 languages.",
    )
