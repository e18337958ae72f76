"""Registers the family."""

from collections.abc import Iterable

from tk import Matches, ModelSpec, hookimpl


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="internvl",
        target="acme_tk_internvl.family:InternVL",
        summary="InternVL3 and 3.5, with pictures.",
        matches=Matches(model_types=("internvl",), ids=("*internvl*",)),
        supports=("packing", "index-select", "padding-left", "gradient-checkpointing", "sharding"),
    )
