"""Registers the method `ppo`."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="ppo",
        target="tk_ppo.method:Ppo",
        config="tk_ppo.options:PpoOptions",
        summary="Answers held against what a critic, trained beside the policy, expects token by token.",
        supports=("padding-left", "index-select", "shared-prefix"),
        uses={"clip": "clip"},
        defaults={"clip.name": "clip", "sampling.n": 1, "sampling.temperature": 1.0},
    )
