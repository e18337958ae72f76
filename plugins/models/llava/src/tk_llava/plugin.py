"""Registers the LLaVA families."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import Matches, ModelSpec


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="llava",
        target="tk_llava.family:Llava",
        config="tk_llava.options:LlavaOptions",
        summary="LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision.",
        matches=Matches(
            model_types=("llava", "llava_next", "llava_onevision"),
            ids=("*llava-1.5*", "*llava-v1.6*", "*llava-next*", "*llava-onevision*"),
        ),
        supports=("packing", "index-select", "padding-left", "gradient-checkpointing", "sharding"),
    )
