"""Registers the family `acme` and its template."""

from collections.abc import Iterable

from tk import Matches, ModelSpec, TemplateSpec, hookimpl


@hookimpl
def tk_models() -> Iterable[ModelSpec]:
    yield ModelSpec(
        name="acme",
        target="acme_tk_model.family:AcmeFamily",
        summary="Acme: Llama with squared ReLU and biases.",
        matches=Matches(model_types=("acme",)),
        template="acme-chat",
        supports=("packing", "index-select", "padding-left", "gradient-checkpointing", "sharding"),
    )


@hookimpl
def tk_templates() -> Iterable[TemplateSpec]:
    yield TemplateSpec(
        name="acme-chat",
        target="acme_tk_model.template:AcmeTemplate",
        config="tk_declarative.options:ChatOptions",
        summary="Acme's chat format: <|user|> … <|endoftext|>.",
    )
