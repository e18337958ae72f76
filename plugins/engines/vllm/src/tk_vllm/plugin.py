"""Registers the engine `vllm`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import EngineSpec


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(
        name="vllm",
        target="tk_vllm.engine:VllmEngine",
        config="tk_vllm.options:VllmOptions",
        summary="Generates by vLLM, in an environment of its own or this one.",
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
        extra="tk-plugin-vllm[vllm]",
        needs=("module:vllm",),
        elsewhere=("python",),
    )
