"""Registers the engine `openai`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import EngineSpec


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(
        name="openai",
        target="tk_openai.engine:OpenAIEngine",
        config="tk_openai.options:OpenAIOptions",
        summary="Asks an endpoint that speaks OpenAI's protocol.",
        supports=("streaming", "weight-update", "own-template", "penalties", "logit-bias"),
        elsewhere=("url",),
    )
