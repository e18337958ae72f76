"""A plugin file: the engine `transformers`, which notes beside the checkpoint as which version its weights are updated."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from tk import EngineSpec, hookimpl
from tk_transformers.engine import TransformersEngine


class Noted(TransformersEngine):
    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> str:
        digest = super().update(weights, version)
        (Path(self.model.path) / "version.txt").write_text(str(version))
        return digest


@hookimpl
def tk_engines():
    yield EngineSpec(
        name="noted",
        target=Noted,
        config="tk_transformers.options:TransformersOptions",
        summary="Notes versions.",
        supports=("shared-module", "adapters", "weight-update"),
    )
