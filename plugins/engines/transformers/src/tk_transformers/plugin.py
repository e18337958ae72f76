"""Registers the engine `transformers`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import EngineSpec


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(
        name="transformers",
        target="tk_transformers.engine:TransformersEngine",
        config="tk_transformers.options:TransformersOptions",
        summary="Generates on the module in memory.",
        supports=(
            "streaming",
            "shared-module",
            "weight-update",
            "adapters",
            "media",
            "sleep",
            "penalties",
            "min-p",
            "logit-bias",
            "top-logprobs",
            "prompt-logprobs",
            "model-logprobs",
            "scores",
        ),
    )
