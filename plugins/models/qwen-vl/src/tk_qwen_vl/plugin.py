"""Registers the Qwen-VL families."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import Matches, ModelSpec


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="qwen-vl",
        target="tk_qwen_vl.family:QwenVL",
        config="tk_qwen_vl.options:QwenVLOptions",
        summary="Qwen2-VL, Qwen2.5-VL, Qwen3-VL and its mixture of experts.",
        matches=Matches(
            model_types=("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
            ids=("*qwen2-vl*", "*qwen2.5-vl*", "*qwen3-vl*"),
        ),
        supports=("packing", "index-select", "padding-left", "gradient-checkpointing", "sharding"),
    )
