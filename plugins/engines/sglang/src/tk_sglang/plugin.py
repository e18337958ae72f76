"""Registers the engine `sglang`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import EngineSpec


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(
        name="sglang",
        target="tk_sglang.engine:SglangEngine",
        config="tk_sglang.options:SglangOptions",
        summary="Generates by SGLang, in an environment of its own or this one. Needs a GPU.",
        supports=(
            "streaming",
            "weight-update",
            "adapters",
            "sleep",
            "penalties",
            "min-p",
            "logit-bias",
            "top-logprobs",
        ),
        extra="tk-plugin-sglang[sglang]",
        needs=("module:sglang",),
        elsewhere=("python",),
    )
