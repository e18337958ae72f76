"""Registers the engine `lmdeploy`."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import EngineSpec


@hookimpl
def tk_engines() -> Iterable[EngineSpec]:
    yield EngineSpec(
        name="lmdeploy",
        target="tk_lmdeploy.engine:LmdeployEngine",
        config="tk_lmdeploy.options:LmdeployOptions",
        summary="Generates by LMDeploy, in an environment of its own or this one. Needs a GPU.",
        supports=("streaming", "adapters", "sleep", "min-p", "top-logprobs"),
        extra="tk-plugin-lmdeploy[lmdeploy]",
        needs=("module:lmdeploy",),
        elsewhere=("python",),
    )
