"""Registers the advantage `opo`, a component of a kind that tk-plugin-grpo owns."""

from collections.abc import Iterable

from tk import hookimpl
from tk_grpo.contracts import AdvantageSpec


@hookimpl
def tk_advantages() -> Iterable[AdvantageSpec]:
    yield AdvantageSpec(
        name="opo",
        target="acme_tk_opo.advantage:Opo",
        summary="Above the mean of the group in which longer answers count for more (OPO).",
    )
